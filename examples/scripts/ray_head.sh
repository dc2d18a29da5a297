# shellcheck shell=bash
# Functions for the scripts of this folder: a Ray head only on loopback, which ends with the script that started it.
#   start_ray_head LOG GPUS CPUS     sets RAY_JOBS, the address for `ray job submit`, and does not wait for it
#   await_ray_head LOG               waits until it answers; returns 1 if it did not start
#   stop_ray_head                    stops it and its processes, if it was started
#   job_state ID                     prints a job's state: PENDING, RUNNING, SUCCEEDED, FAILED, STOPPED; empty if Ray does not answer
export RAY_USAGE_STATS_ENABLED=0 no_proxy="127.0.0.1${no_proxy:+,$no_proxy}"
RAY_HEAD='' RAY_TMP=''

start_ray_head() {
  local port client agent
  read -r port client agent < <(python -c 'import socket as s; a = [s.create_server(("127.0.0.1", 0)) for _ in "abc"]; print(*[x.getsockname()[1] for x in a])')
  RAY_TMP=$(mktemp -d /tmp/rpg.XXXXXX) RAY_JOBS=http://127.0.0.1:$port
  export RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 # with 0, Ray allows no other machine and listens on loopback
  setsid ray start --head --block --temp-dir "$RAY_TMP" --node-ip-address 127.0.0.1 --port 0 --num-gpus "$2" \
    --num-cpus "$3" --dashboard-host 127.0.0.1 --dashboard-port "$port" --ray-client-server-port "$client" \
    --dashboard-agent-listen-port "$agent" >"$1" 2>&1 &
  RAY_HEAD=$!
}

await_ray_head() {
  until python -c "import urllib.request as r; r.urlopen('$RAY_JOBS/api/version', timeout=9)" 2>/dev/null; do
    kill -0 "$RAY_HEAD" 2>/dev/null || { echo "the Ray head did not start: see $1" >&2 && return 1; }
    sleep 0.2
  done
}

stop_ray_head() {
  [ -n "$RAY_HEAD" ] || return 0
  kill -TERM -- "-$RAY_HEAD" 2>/dev/null || true
  wait "$RAY_HEAD" 2>/dev/null || true
  RAY_HEAD='' && rm -rf "$RAY_TMP"
}

job_state() {
  local state='import json, sys, urllib.request as r; print(json.load(r.urlopen(sys.argv[1], timeout=9))["status"])'
  python -c "$state" "$RAY_JOBS/api/jobs/$1" 2>/dev/null || true
}
