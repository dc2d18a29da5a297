#!/usr/bin/env bash
# Train one run as a Ray job: start a cluster or join one, submit, follow the logs, return the job's exit status.
#   train_rpg.sh CONFIG... [flags of the launcher]    CONFIG: a layer below configs/, such as base or model/qwen3_4b, or a YAML file
# Environment: OUT (folder of the run, default out/LAST_CONFIG), RAY_JOBS (http://HEAD:8265 of a cluster to join; without it, a
#   head is started here and ends with the script), GPUS (of that head; default: the machine's, or 3 virtual ones on a CPU).
# A finished run is skipped, an interrupted one resumes from its last checkpoint (--ckpt.save_steps). Ctrl-C stops the job.
set -euo pipefail
case "${1:-}" in
  -h | --help) sed -n '2,6s/^# //p' "$0" && exit ;;
  "" | -*) echo "train_rpg.sh: CONFIG must come first, not '${1:-}'; --help says more" >&2 && exit 2 ;;
esac
ROOT=$(realpath "$(dirname "$0")/../..") && LAYERS='' SUBMIT='' STATUS=0 ID=rpg-$(date +%s)-$$
while [ $# -gt 0 ] && [ "${1#-}" = "$1" ]; do
  LAYER=$1 && [ -f "$LAYER" ] || LAYER=$ROOT/configs/${1%.yaml}.yaml
  [ -f "$LAYER" ] || { echo "train_rpg.sh: CONFIG $1: no such file, nor $LAYER" >&2 && exit 2; }
  LAYERS+=${LAYERS:+,}$(realpath "$LAYER") && shift
done
OUT=$(realpath -m "${OUT:-out/$(basename "$LAYER" .yaml)}") && export PYTHONPATH=$ROOT${PYTHONPATH:+:$PYTHONPATH}
FINISHED='import pathlib, sys; from evaluation.checkpoints import finished; sys.exit(not finished(pathlib.Path(sys.argv[1])))'
! { [ -d "$OUT" ] && python -c "$FINISHED" "$OUT"; } || { echo "$OUT: already finished, skipped" && exit; }
RUN=(python -m rpg_openrlhf.commands.train_rpg --config "$LAYERS" --ckpt.path "$OUT/checkpoints" --ckpt.output_dir "$OUT/model" --logger.run_dir "$OUT/logs")
. "$ROOT/examples/scripts/ray_head.sh"
stop() {
  trap '' INT TERM
  [ -z "$SUBMIT" ] || { timeout 60 ray job stop --address "$RAY_JOBS" "$ID" >/dev/null 2>&1 || true; }
  stop_ray_head
}
trap stop EXIT && trap 'echo interrupted >&2; exit 130' INT TERM
mkdir -p "$OUT" && GPUS=${GPUS:-$({ nvidia-smi --list-gpus 2>/dev/null || true; } | wc -l)} && [ "$GPUS" -gt 0 ] || GPUS=3
[ -n "${RAY_JOBS:-}" ] || { start_ray_head "$OUT/ray.log" "$GPUS" $((GPUS + 2 > $(nproc) ? GPUS + 2 : $(nproc))) && await_ray_head "$OUT/ray.log"; }
ray job submit --address "$RAY_JOBS" --submission-id "$ID" -- env -C "$PWD" "${RUN[@]}" "$@" &
SUBMIT=$! && { wait "$SUBMIT" || STATUS=$?; }
# The log may end before the job does (ray-project/ray#60665), and a stopped job's status is 0, so ask Ray for the state, up to five times.
for _ in 1 2 3 4 5; do
  while STATE=$(job_state "$ID") && [ "${STATE/PENDING/RUNNING}" = RUNNING ]; do sleep 2; done
  if [ -n "$STATE" ]; then break; else sleep 2; fi
done
case $STATE in SUCCEEDED) STATUS=0 ;; *) STATUS=$((STATUS > 0 ? STATUS : 1)) ;; esac
SUBMIT='' && exit "$STATUS"
