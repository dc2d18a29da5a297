#!/usr/bin/env bash
# The comparison of docs/comparison.md on this machine's CPU: eight methods with the tiny model of the quickstart, then KL losses
# against the exact gradient, then two stress settings. Hours on 2 cores; the same command again goes on where it stopped.
# Environment: OUT (folder, default out/compare), JOBS (runs side by side; default: the cores), SEEDS (of the methods, default "1 2 3 4 5"),
#   STRESS_SEEDS (default "1 2"), KL_SEEDS (default "1 2 3"; empty leaves it out).
set -euo pipefail
case "${1:-}" in -h | --help) sed -n '2,5s/^# //p' "$0" && exit ;; esac
cd "$(dirname "$0")/../.." && OUT=$(realpath -m "${OUT:-out/compare}") JOBS=${JOBS:-$(nproc)} TASK=examples/quickstart && export JOBS
mkdir -p "$OUT" && python $TASK/warm_up.py --out "$OUT/warm_up" --seed 0 --steps 250
python $TASK/arithmetic.py --out "$OUT/data" --rl 4096 --heldout 250 --seed 0
ASK="--benchmarks $OUT/data/heldout.jsonl --prompt raw --max-tokens 64 --n 4"
# shellcheck disable=SC2086  # ASK is a list of words
python -m evaluation.run --model "$OUT/warm_up" --label start $ASK --output "$OUT/start" >"$OUT/start.log" 2>&1 || { cat "$OUT/start.log" >&2 && exit 1; }

. examples/scripts/ray_head.sh # one for all of them
trap stop_ray_head EXIT && trap 'echo interrupted >&2; exit 130' INT TERM
start_ray_head "$OUT/ray.log" $((3 * JOBS)) $((3 * JOBS + 4)) && await_ray_head "$OUT/ray.log" && export RAY_JOBS
compare() { # FOLDER SEEDS METHODS LAYER...
  local folder=$OUT/$1 seeds=$2 methods=$3 && shift 3
  START=$OUT/start OUT=$folder SEEDS=$seeds METHODS=$methods EVAL=$ASK examples/scripts/compare.sh hardware/cpu debug/quickstart_cpu \
    debug/compare_cpu "$@" --actor.model_name_or_path "$OUT/warm_up" --data.prompt_dataset "$OUT/data/rl.jsonl"
}
STATUS=0 # a part with a failed run is said to have failed, and the others are made all the same
METHODS="rpg_ufkl rpg_urkl rpg_reinforce_ufkl rpg_reinforce_urkl grpo_as_released dapo reinforce++ reinforce++_baseline"
compare main "${SEEDS:-1 2 3 4 5}" "$METHODS" || STATUS=1
[ -z "${KL_SEEDS=1 2 3}" ] || {
  compare kl "$KL_SEEDS" "kl/k1 kl/k2 kl/k3 kl/rkl kl/urkl" || STATUS=1
  python examples/comparison/kl_tradeoff.py --runs "$OUT/kl" --start "$OUT/warm_up" --data "$OUT/data/heldout.jsonl" --beta 0.2 || STATUS=1
}
for LEVEL in strain stress; do
  [ -z "${STRESS_SEEDS=1 2}" ] || compare $LEVEL "$STRESS_SEEDS" "$METHODS" debug/compare_$LEVEL || STATUS=1
done
exit "$STATUS"
