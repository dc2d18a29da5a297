#!/usr/bin/env bash
# An environment with one of the pinned stacks.   install.sh VENV PYTHON cpu|gpu
# uv picks PyTorch's CPU build (the index's own is the CUDA one) and brings a Python where PYTHON does not fit; where uv cannot reach
# that build, pip installs the one it finds (PIP_FIND_LINKS, an extra index).
set -euo pipefail
VENV=$1 PYTHON=$2 STACK=$3 LOCK=$(dirname "$0")/$3.txt
fits() { "$1" -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null; }

UV=$(command -v uv || true)
if fits "$PYTHON"; then
  "$PYTHON" -m venv "$VENV"
elif [ -n "$UV" ] && "$UV" venv --quiet --seed --python 3.11 "$VENV"; then
  echo "make: $PYTHON is no CPython 3.11 or 3.12: uv brought one" >&2
else
  echo "make: $PYTHON is no CPython 3.11 or 3.12, which the pinned packages need: install one, or uv, or name one with make PYTHON=/path/to/python3.11" >&2
  exit 2
fi
pip() { "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check "$@"; }
[ -n "$UV" ] || { pip uv && UV=$VENV/bin/uv; } || UV=''
# The whole stack is pinned, so nothing needs resolving.
BACKEND=$([ "$STACK" != cpu ] || echo --torch-backend=cpu)
if [ -z "$UV" ] || ! "$UV" pip install --quiet --python "$VENV/bin/python" --no-deps ${BACKEND:+"$BACKEND"} -r "$LOCK" 2>"$VENV/uv.log"; then
  echo "make: uv cannot install $LOCK here ($(tail -n 1 "$VENV/uv.log" 2>/dev/null | tr -s ' ' | cut -c1-100)): pip tries" >&2
  pip --no-deps --no-compile -r "$LOCK"
fi
pip --no-deps --no-build-isolation -e .
# Neither byte-compiles on all cores.
"$VENV/bin/python" -m compileall -q -j 0 "$VENV/lib" >/dev/null 2>&1 || true
