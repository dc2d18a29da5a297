#!/usr/bin/env bash
# Reproduce a table of arXiv 2505.17508: print its runs, then train and evaluate each.
#   reproduce_table.sh TABLE [--dry_run] [flags of the launcher]    TABLE: 3, 5, 6, 7, 8, figure8, ...; without TABLE: print the list
# Environment: HARDWARE (layer below configs/, default hardware/8xh100), OUT (folder, default out/tables), EVAL (flags of
#   python -m evaluation.run; default: the paper's benchmarks, 32 samples), RAY_JOBS, GPUS (see train_rpg.sh).
# Run prepare_data.sh before. The same command resumes where it stopped. --dry_run: only print the runs.
set -euo pipefail
case "${1:-}" in
  -h | --help) sed -n '2,6s/^# //p' "$0" && exit ;;
  -*) echo "reproduce_table.sh: $1: TABLE must come first; --help says more" >&2 && exit 2 ;;
esac
ROOT=$(realpath "$(dirname "$0")/../..") && OUT=$(realpath -m "${OUT:-out/tables}") && FAILED='' DONE=() MORE=() DRY_RUN=''
export PYTHONPATH=$ROOT${PYTHONPATH:+:$PYTHONPATH}
[ $# -gt 0 ] || exec python -m rpg_openrlhf.commands.tables
TABLE=$1 && shift
for WORD in "$@"; do if [ "$WORD" = --dry_run ]; then DRY_RUN=1; else MORE+=("$WORD"); fi; done
PLAN=(python -m rpg_openrlhf.commands.tables "$TABLE" ${HARDWARE:+--hardware "$HARDWARE"}) && "${PLAN[@]}"
[ -z "$DRY_RUN" ] || exit 0
trap 'exit 130' INT TERM
while IFS=$'\t' read -r NAME LAYERS FLAGS <&3; do
  RUN=$OUT/$NAME STATUS=0 && IFS=, read -ra CONFIGS <<<"$LAYERS"
  echo "== $NAME: $RUN"
  OUT=$RUN "$ROOT/examples/scripts/train_rpg.sh" "${CONFIGS[@]}" "${MORE[@]}" || STATUS=$?
  [ "$STATUS" != 130 ] || exit 130
  # shellcheck disable=SC2086  # FLAGS and EVAL are lists of words
  [ "$STATUS" != 0 ] || OUT='' "$ROOT/examples/scripts/evaluate_checkpoints.sh" "$RUN" --label "$NAME" $FLAGS ${EVAL:-} || STATUS=$?
  if [ "$STATUS" = 0 ]; then DONE+=("$RUN/evaluation"); else FAILED+=" $NAME" && echo "$NAME failed: status $STATUS" >&2; fi
done 3< <("${PLAN[@]}" --plain)
[ ${#DONE[@]} = 0 ] || python -m evaluation.report "${DONE[@]}" --output "$OUT/report-$TABLE"
[ -z "$FAILED" ] || { echo "failed:$FAILED" >&2 && exit 1; }
