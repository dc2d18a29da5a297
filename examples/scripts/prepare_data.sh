#!/usr/bin/env bash
# Prepare training data: English, without copies, contradictory answers and (with BENCHMARKS) the benchmarks' problems.
#   prepare_data.sh [SOURCE...]     default: dapo-math-17k; others: deepscaler, arithmetic, gym:FAMILY, FILE
# Environment: OUT (folder, default data; a folder below it for each source), BENCHMARKS (files or folders to compare with, or
#   aime24,amc23,...; default none, as in the paper), VALIDATION (rows held out, default 0), FLAGS (more flags of prepare_data).
# A source that is already prepared is skipped.
set -euo pipefail
case "${1:-}" in
  -h | --help) sed -n '2,6s/^# //p' "$0" && exit ;;
  -*) echo "prepare_data.sh: $1: SOURCE must come first; --help says more" >&2 && exit 2 ;;
esac
[ $# -gt 0 ] || set -- dapo-math-17k
ROOT=$(realpath "$(dirname "$0")/../..") && export PYTHONPATH=$ROOT${PYTHONPATH:+:$PYTHONPATH}
for SOURCE in "$@"; do
  NAME=$(basename "${SOURCE/:/-}") && TO=${OUT:-data}/${NAME%.*}
  [ ! -f "$TO/DATA.md" ] || { echo "$TO: already prepared, skipped" && continue; }
  # shellcheck disable=SC2086  # FLAGS is a list of words
  python -m rpg_openrlhf.commands.prepare_data "$SOURCE" --output "$TO" --validation "${VALIDATION:-0}" ${BENCHMARKS:+--decontaminate "$BENCHMARKS"} ${FLAGS:-}
done
