#!/usr/bin/env bash
# Compare methods: train each with each seed, evaluate every checkpoint on held-out problems, report all of them together.
#   compare.sh CONFIG... [flags of the launcher]     for all runs; CONFIG as in train_rpg.sh
# Environment: METHODS (layers of configs/algorithm, or other layers such as debug/mine; default "rpg_reinforce_urkl rpg_urkl
#   grpo_as_released dapo"), SEEDS (default "1 2 3"), OUT (folder, default out/compare), EVAL (flags of python -m evaluation.run, such as
#   "--benchmarks held.jsonl --n 4"), START (evaluation folder of the start model), JOBS (parallel runs, default 1; they share the
#   cluster of RAY_JOBS), GPUS (see train_rpg.sh). The same command resumes where it stopped. Failed runs are reported and left out.
set -euo pipefail
ROOT=$(realpath "$(dirname "$0")/../..") && export PYTHONPATH=$ROOT${PYTHONPATH:+:$PYTHONPATH}
if [ "${1:-}" = --one ]; then # --one METHOD-seedN CONFIG...: one run, started by xargs below
  NAME=${2##*/} LAYER=${2%-seed*} SEED=${2##*-seed} CONFIGS=() STATUS=0 && shift 2
  while [ $# -gt 0 ] && [ "${1#-}" = "$1" ]; do CONFIGS+=("$1") && shift; done
  echo "== $NAME: $OUT/$NAME.log" && rm -f "$OUT/$NAME/compared"
  { OUT=$OUT/$NAME "$ROOT/examples/scripts/train_rpg.sh" "${CONFIGS[@]}" "$LAYER" "$@" --train.seed "$SEED" &&
    # shellcheck disable=SC2086  # EVAL is a list of words
    OUT='' "$ROOT/examples/scripts/evaluate_checkpoints.sh" "$OUT/$NAME" --label "$NAME" ${EVAL:-}; } >>"$OUT/$NAME.log" 2>&1 || STATUS=$?
  [ "$STATUS" = 0 ] && touch "$OUT/$NAME/compared" || echo "$NAME failed with status $STATUS: $(tail -n 1 "$OUT/$NAME.log")" >&2
  exit 0
fi
case "${1:-}" in
  -h | --help) sed -n '2,8s/^# //p' "$0" && exit ;;
  "" | -*) echo "compare.sh: CONFIG must come first, not '${1:-}'; --help says more" >&2 && exit 2 ;;
esac
OUT=$(realpath -m "${OUT:-out/compare}") && export OUT && RUNS=() FAILED='' DONE=()
for SEED in ${SEEDS:-1 2 3}; do # all methods with one seed before the next seed, so that finished runs can be compared at any time
  for METHOD in ${METHODS:=rpg_reinforce_urkl rpg_urkl grpo_as_released dapo}; do
    [ "${METHOD#*/}" != "$METHOD" ] || METHOD=algorithm/$METHOD
    [ -f "$ROOT/configs/$METHOD.yaml" ] || { echo "METHODS=$METHODS: there is no $ROOT/configs/$METHOD.yaml" >&2 && exit 2; }
    RUNS+=("$METHOD-seed$SEED")
  done
done
mkdir -p "$OUT" && printf '%s\0' "${RUNS[@]}" | xargs -0 -P "${JOBS:-1}" -I {run} "$0" --one {run} "$@" || exit 130
for RUN in "${RUNS[@]##*/}"; do [ -f "$OUT/$RUN/compared" ] && DONE+=("$OUT/$RUN/evaluation") || FAILED+=" $RUN"; done
[ ${#DONE[@]} = 0 ] || python -m evaluation.methods "${DONE[@]}" --output "$OUT/report" ${START:+--start "$START"}
[ -z "$FAILED" ] || { echo "failed:$FAILED" >&2 && exit 1; }
