#!/usr/bin/env bash
# Train a small model with RPG on this machine's CPU: warm up, RL as a Ray job, evaluation of its checkpoints, report.
# Environment: ALGO (a file of configs/algorithm, default rpg-reinforce-urkl), OUT (folder), SEED, WANDB (offline or disabled),
#   MODEL (a Hugging Face folder or id instead of the tiny model; takes much longer), FLAGS (more flags of the launcher).
set -euo pipefail
case "${1:-}" in -h | --help) sed -n '2,4s/^# //p' "$0" && exit ;; esac
cd "$(dirname "$0")/../.."
ALGO=${ALGO:-rpg-reinforce-urkl} SEED=${SEED:-1} MODEL=${MODEL:-} OUT=$(realpath -m "${OUT:-out/quickstart-$ALGO}")
LAYER=$PWD/configs/algorithm/${ALGO//-/_}.yaml SIZE=$PWD/configs/debug/quickstart_cpu.yaml TASK=examples/quickstart CHAT=()
EVAL=(--prompt raw --max-tokens 64)
[ -f "$LAYER" ] || { echo "ALGO=$ALGO: there is no $LAYER; see $(dirname "$LAYER")" >&2 && exit 2; }
[ -z "$MODEL" ] || { CHAT=(--chat) EVAL=(--prompt dapo --max-tokens 192) SIZE+=,$PWD/configs/debug/quickstart_model.yaml; }
mkdir -p "$OUT" && rm -rf "$OUT/rl" "$OUT/evaluation"
[ "${WANDB:-}" != offline ] || { export WANDB_MODE=offline WANDB_DIR=$OUT; FLAGS="${FLAGS:-} --logger.wandb.key offline"; }

. examples/scripts/ray_head.sh # start our own Ray head, only on loopback; it ends with this script, and so do its processes
trap stop_ray_head EXIT
trap 'echo interrupted >&2; exit 130' INT TERM
start_ray_head "$OUT/ray.log" 3 5

[ -n "$MODEL" ] || { MODEL=$OUT/warm_up && python $TASK/warm_up.py --out "$MODEL" --seed "$SEED"; }
python $TASK/arithmetic.py --out "$OUT/data" --rl 1024 --seed "$SEED" "${CHAT[@]}"
await_ray_head "$OUT/ray.log"
# shellcheck disable=SC2086  # FLAGS is a list of words. The grep removes Ray's own messages about the job.
ray job submit --address "$RAY_JOBS" -- python -m rpg_openrlhf.commands.train_rpg --config "$LAYER,$SIZE" --platform cpu \
  --actor.model_name_or_path "$MODEL" --data.prompt_dataset "$OUT/data/rl.jsonl" --train.seed "$SEED" --ckpt.path "$OUT/rl/checkpoints" \
  --ckpt.output_dir "$OUT/rl/model" --logger.run_dir "$OUT/rl/logs" --logger.tensorboard_dir "$OUT/rl/tensorboard" ${FLAGS:-} 2>&1 | grep --line-buffered -vE "(INFO|SUCC) (cli|job_manager)\.py:|^Running entrypoint"
python -m evaluation.run --checkpoints "$OUT/rl" --start "$MODEL" --label "$ALGO" --n 4 --seed "$SEED" \
  --benchmarks "$OUT/data/heldout.jsonl" "${EVAL[@]}" --output "$OUT/evaluation"
WARM_UP=$MODEL/warm_up.json && [ -f "$WARM_UP" ] || WARM_UP=
python $TASK/report.py --metrics "$OUT/rl/logs/metrics.jsonl" --evaluation "$OUT/evaluation" ${WARM_UP:+--warm_up "$WARM_UP"} \
  --png "$OUT/curves.png" --title "$ALGO" --checkpoint "$OUT/rl/model" --logs "$OUT/rl/logs" --tensorboard "$OUT/rl/tensorboard"
