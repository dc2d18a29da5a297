#!/usr/bin/env bash
# Create an environment with one of the pinned stacks.   install.sh VENV PYTHON cpu|gpu
# uv selects PyTorch's CPU build (PyPI has the CUDA build) and downloads a Python if PYTHON has another version. If uv cannot reach
# that build, pip installs the one it finds (PIP_FIND_LINKS, an extra index).
set -euo pipefail
VENV=$1 PYTHON=$2 STACK=$3 LOCK=$(dirname "$0")/$3.txt
fits() { "$1" -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null; }

UV=$(command -v uv || true)
if fits "$PYTHON"; then
  "$PYTHON" -m venv "$VENV"
elif [ -n "$UV" ] && "$UV" venv --quiet --seed --python 3.11 "$VENV"; then
  echo "make: $PYTHON is not CPython 3.11 or 3.12: uv installed one" >&2
else
  echo "make: $PYTHON is not CPython 3.11 or 3.12, which the pinned packages need: install one, or uv, or give make PYTHON=/path/to/python3.11" >&2
  exit 2
fi
pip() { "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check "$@"; }
[ -n "$UV" ] || { pip uv && UV=$VENV/bin/uv; } || UV=''
# The whole stack is pinned, so no dependencies are resolved.
BACKEND=$([ "$STACK" != cpu ] || echo --torch-backend=cpu)
if [ -z "$UV" ] || ! "$UV" pip install --quiet --python "$VENV/bin/python" --no-deps ${BACKEND:+"$BACKEND"} -r "$LOCK" 2>"$VENV/uv.log"; then
  echo "make: uv cannot install $LOCK here ($(tail -n 1 "$VENV/uv.log" 2>/dev/null | tr -s ' ' | cut -c1-100)): trying pip" >&2
  pip --no-deps --no-compile -r "$LOCK"
fi
pip --no-deps --no-build-isolation -e .
# Neither uv nor pip byte-compiles on all cores.
"$VENV/bin/python" -m compileall -q -j 0 "$VENV/lib" >/dev/null 2>&1 || true
