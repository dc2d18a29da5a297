#!/usr/bin/env bash
# Train a small model with RPG on this machine's CPU: warm up, RL as a Ray job, evaluation of its checkpoints, report.
# Environment: ALGO (a file of configs/algorithm, default rpg-reinforce-urkl), OUT (folder), SEED, WANDB (offline or disabled),
#   MODEL (a Hugging Face folder or id instead of the tiny model; a long run), FLAGS (more flags of the launcher).
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

# A Ray head of our own, on loopback alone; it and what it started end with this script.
RAY_TMP=$(mktemp -d /tmp/rpg.XXXXXX)
read -r DASHBOARD CLIENT AGENT < <(python -c 'import socket as s; a = [s.create_server(("127.0.0.1", 0)) for _ in "abc"]; print(*[x.getsockname()[1] for x in a])')
export RAY_USAGE_STATS_ENABLED=0 RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 # the latter: no other machine joins, so Ray listens on loopback
setsid ray start --head --block --temp-dir "$RAY_TMP" --node-ip-address 127.0.0.1 --port 0 --num-gpus 3 \
  --num-cpus 5 --dashboard-host 127.0.0.1 --dashboard-port "$DASHBOARD" --ray-client-server-port "$CLIENT" \
  --dashboard-agent-listen-port "$AGENT" >"$OUT/ray.log" 2>&1 &
HEAD=$!
trap 'kill -TERM -- -$HEAD 2>/dev/null; wait $HEAD 2>/dev/null || true; rm -rf "$RAY_TMP"' EXIT
trap 'echo interrupted >&2; exit 130' INT TERM

[ -n "$MODEL" ] || { MODEL=$OUT/warm_up && python $TASK/warm_up.py --out "$MODEL" --seed "$SEED"; }
python $TASK/arithmetic.py --out "$OUT/data" --rl 1024 --seed "$SEED" "${CHAT[@]}"
until python -c "import urllib.request as r; r.urlopen('http://127.0.0.1:$DASHBOARD/api/version', timeout=9)" 2>/dev/null; do
  kill -0 $HEAD 2>/dev/null || { echo "the Ray head did not start: see $OUT/ray.log" >&2 && exit 1; }
  sleep 0.2
done
# shellcheck disable=SC2086  # FLAGS is a list of words; what is left out of the output is Ray's own talk about the job
ray job submit --address "http://127.0.0.1:$DASHBOARD" -- python -m rpg_openrlhf.cli.train_rpg --config "$LAYER,$SIZE" --platform cpu \
  --actor.model_name_or_path "$MODEL" --data.prompt_dataset "$OUT/data/rl.jsonl" --train.seed "$SEED" --ckpt.path "$OUT/rl/checkpoints" \
  --ckpt.output_dir "$OUT/rl/model" --logger.run_dir "$OUT/rl/logs" --logger.tensorboard_dir "$OUT/rl/tensorboard" ${FLAGS:-} 2>&1 | grep --line-buffered -vE "(INFO|SUCC) (cli|job_manager)\.py:|^Running entrypoint"
python -m evaluation.run --checkpoints "$OUT/rl" --start "$MODEL" --label "$ALGO" --n 4 --seed "$SEED" \
  --benchmarks "$OUT/data/heldout.jsonl" "${EVAL[@]}" --output "$OUT/evaluation"
WARM_UP=$MODEL/warm_up.json && [ -f "$WARM_UP" ] || WARM_UP=
python $TASK/report.py --metrics "$OUT/rl/logs/metrics.jsonl" --evaluation "$OUT/evaluation" ${WARM_UP:+--warm_up "$WARM_UP"} \
  --png "$OUT/curves.png" --title "$ALGO" --checkpoint "$OUT/rl/model" --logs "$OUT/rl/logs" --tensorboard "$OUT/rl/tensorboard"
