#!/usr/bin/env bash
# Compare methods: train each with each seed, evaluate every checkpoint on held-out problems, report all of them together.
#   compare.sh CONFIG... [flags of the launcher]     what the runs share; CONFIG as in train_rpg.sh
# Environment: METHODS (layers of configs/algorithm, default "rpg_reinforce_urkl rpg_urkl grpo_as_released dapo"), SEEDS (default
#   "1 2 3"), OUT (folder, default out/compare), EVAL (flags of python -m evaluation.run, as "--benchmarks held.jsonl --n 4"),
#   RAY_JOBS, GPUS (see train_rpg.sh). The same command again goes on where it stopped. A failed run is said and left out.
set -euo pipefail
case "${1:-}" in
  -h | --help) sed -n '2,6s/^# //p' "$0" && exit ;;
  "" | -*) echo "compare.sh: CONFIG must come first, not '${1:-}'; --help says more" >&2 && exit 2 ;;
esac
ROOT=$(realpath "$(dirname "$0")/../..") && OUT=$(realpath -m "${OUT:-out/compare}") && CONFIGS=() FAILED='' DONE=()
while [ $# -gt 0 ] && [ "${1#-}" = "$1" ]; do CONFIGS+=("$1") && shift; done
for METHOD in ${METHODS:=rpg_reinforce_urkl rpg_urkl grpo_as_released dapo}; do
  [ -f "$ROOT/configs/algorithm/$METHOD.yaml" ] || { echo "METHODS=$METHOD: not in $ROOT/configs/algorithm" >&2 && exit 2; }
done
trap 'exit 130' INT TERM
for SEED in ${SEEDS:-1 2 3}; do
  for METHOD in $METHODS; do # a seed of every method before the next: what is there can be compared at any time
    RUN=$OUT/$METHOD-seed$SEED STATUS=0
    echo "== $METHOD, seed $SEED: $RUN"
    OUT=$RUN "$ROOT/examples/scripts/train_rpg.sh" "${CONFIGS[@]}" "algorithm/$METHOD" "$@" --train.seed "$SEED" || STATUS=$?
    [ "$STATUS" != 130 ] || exit 130
    # shellcheck disable=SC2086  # EVAL is a list of words
    [ "$STATUS" != 0 ] || OUT='' "$ROOT/examples/scripts/evaluate_checkpoints.sh" "$RUN" --label "$METHOD-seed$SEED" ${EVAL:-} || STATUS=$?
    if [ "$STATUS" = 0 ]; then DONE+=("$RUN/evaluation"); else FAILED+=" $METHOD-seed$SEED" && echo "$RUN failed: status $STATUS" >&2; fi
  done
done
[ ${#DONE[@]} = 0 ] || (cd "$OUT" && PYTHONPATH=$ROOT${PYTHONPATH:+:$PYTHONPATH} python -m evaluation.report "${DONE[@]}" --output "$OUT/report")
[ -z "$FAILED" ] || { echo "failed:$FAILED" >&2 && exit 1; }
