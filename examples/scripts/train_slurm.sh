#!/usr/bin/env bash
# Train on several nodes under Slurm: start a Ray head on the first node and workers on the others, then run train_rpg.sh.
#   sbatch --nodes 2 --gpus-per-node 8 train_slurm.sh CONFIG... [flags of the launcher]    such as base ... hardware/2x8xh100
# Environment: OUT (as for train_rpg.sh), ROOT (this checkout, default: the folder sbatch was called in), PORT (6379), JOBS_PORT
#   (8265), IP (the first node's, default: the first of `hostname -I`). Checkout, Python environment, data and OUT must be under
#   the same paths on every node. Ray has no password: anyone who reaches these ports can run code. Use a closed network.
#SBATCH --job-name=rpg
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --signal=B:TERM@120
set -euo pipefail
case "${1:-}" in
  -h | --help) sed -n '2,6s/^# //p' "$0" && exit ;;
  "" | -*) echo "train_slurm.sh: CONFIG must come first, not '${1:-}'; --help says more" >&2 && exit 2 ;;
esac
[ -n "${SLURM_JOB_NODELIST:-}" ] || { echo "train_slurm.sh: no Slurm job here: sbatch --nodes N --gpus-per-node G $0 ..." >&2 && exit 2; }
ROOT=${ROOT:-${SLURM_SUBMIT_DIR:-$PWD}} PORT=${PORT:-6379} JOBS_PORT=${JOBS_PORT:-8265} STATUS=0 RUN='' RAYS=()
[ -f "$ROOT/examples/scripts/train_rpg.sh" ] || { echo "ROOT=$ROOT: not the checkout; call sbatch there, or give ROOT" >&2 && exit 2; }
export RAY_USAGE_STATS_ENABLED=0 PYTHONPATH=$ROOT${PYTHONPATH:+:$PYTHONPATH} RAY_TMPDIR=/tmp # for Ray's sockets: Slurm's TMPDIR is too long a path
on() { exec srun --overlap --nodes 1 --ntasks 1 --nodelist "$@"; } # on NODE COMMAND...: it replaces its shell, so call it only with & or |
all_alive() { for RAY in "${RAYS[@]}"; do kill -0 "$RAY" 2>/dev/null || { echo "train_slurm.sh: Ray ended on a node; its output is above" >&2 && exit 1; }; done; }
end() { # stop the job first, while the cluster is alive, and then the srun steps, which ends Ray
  trap '' INT TERM
  for PID in $RUN "${RAYS[@]}"; do kill "$PID" 2>/dev/null && { [ "$PID" != "$RUN" ] || wait "$PID"; } || true; done
  wait
}
trap end EXIT && trap 'exit 143' TERM INT
mapfile -t NODES < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
IP=${IP:-$(on "${NODES[0]}" hostname -I | awk '{print $1}')} && export no_proxy="$IP${no_proxy:+,$no_proxy}"
on "${NODES[0]}" ray start --head --block --node-ip-address "$IP" --port "$PORT" --dashboard-host "$IP" --dashboard-port "$JOBS_PORT" & RAYS+=($!)
until python -c "import urllib.request as r; r.urlopen('http://$IP:$JOBS_PORT/api/version', timeout=9)" 2>/dev/null; do all_alive && sleep 1; done
for NODE in "${NODES[@]:1}"; do on "$NODE" ray start --block --address "$IP:$PORT" & RAYS+=($!); done
ALIVE="import ray; ray.init('$IP:$PORT', logging_level=40, log_to_driver=False); print(sum(n['Alive'] for n in ray.nodes()))"
until [ "$(python -c "$ALIVE" || echo 0)" -ge "${#NODES[@]}" ]; do all_alive && sleep 2; done
RAY_JOBS=http://$IP:$JOBS_PORT "$ROOT/examples/scripts/train_rpg.sh" "$@" & RUN=$!
wait "$RUN" || STATUS=$?
RUN='' && exit "$STATUS"
