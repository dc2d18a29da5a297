#!/usr/bin/env bash
# Evaluate every Hugging Face checkpoint of a training run: AIME24, AIME25 and AMC23, 32 samples per problem, one engine per GPU.
#   evaluate_checkpoints.sh RUN_DIR [flags of python -m evaluation.run, e.g. --watch --data-dir DIR --n 8]
# Environment: OUT (default RUN_DIR/evaluation), DP (engines; default: the GPUs of this machine, or 1).
# The same command resumes where it stopped and also evaluates new checkpoints.
set -euo pipefail
case "${1:-}" in
  -h | --help) sed -n '2,5s/^# //p' "$0" && exit ;;
  "" | -*) echo "evaluate_checkpoints.sh: RUN_DIR must come first, not '${1:-}'; --help says more" >&2 && exit 2 ;;
esac
RUN_DIR=$1 && shift
GPUS=$({ nvidia-smi --list-gpus 2>/dev/null || true; } | wc -l)
ROOT=$(realpath "$(dirname "$0")/../..")
export PYTHONPATH=$ROOT${PYTHONPATH:+:$PYTHONPATH}
exec python -m evaluation.run --checkpoints "$RUN_DIR" --output "${OUT:-$RUN_DIR/evaluation}" --dp "${DP:-$((GPUS > 1 ? GPUS : 1))}" "$@"
