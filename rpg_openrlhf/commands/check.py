"""`rpg-check`: test that this installation and this machine can train. One line per stage; status 1 if any fails.

Run it after installing and before the first job. Each stage runs in its own process with a time limit, so that a hang
or a crash is also reported in one line.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time

from rpg_openrlhf.check.stages import DEFAULT_FIX, STAGES
from rpg_openrlhf.settings.machine import resolve_platform


def main(argv: list[str] | None = None) -> int:
    """Return the exit status: 0, 1 if a stage fails, 2 for bad flags."""
    parser = argparse.ArgumentParser(prog="rpg-check", description=__doc__.split("\n\n")[0], allow_abbrev=False)
    parser.add_argument("--platform", choices=("auto", "cpu", "cuda"), default="auto", help="(%(default)s)")
    parser.add_argument("--address", default="", help="address of a running Ray cluster, whose nodes are compared")
    parser.add_argument("--stages", nargs="+", choices=tuple(STAGES), default=list(STAGES), help="stages to run (all)")
    parser.add_argument("--json", action="store_true", help="print one JSON object per stage")
    parser.add_argument("--verbose", action="store_true", help="print the whole output of every stage to stderr")
    args = parser.parse_args(argv)
    platform, failed, passed = resolve_platform(args.platform), 0, 0
    if not args.json:
        print(f"rpg-check on the {platform} platform")
    for name in args.stages:
        result = run(name, platform, args.address, args.verbose)
        failed += result["status"] == "failed"
        passed += result["status"] == "ok"
        print(json.dumps(result) if args.json else line_of(result), flush=True)
    if not args.json:
        every = "all stages" if set(args.stages) == set(STAGES) else f"{passed} stage{'s' * (passed != 1)}"
        print(f"{every} passed" if not failed else f"{failed} of {len(args.stages)} stages failed")
    return 1 if failed else 0


def run(name: str, platform: str, address: str = "", verbose: bool = False) -> dict[str, str | float]:
    """Run one stage in its own process; return its status (ok, failed, skipped), message, fix and seconds."""
    limit, began = STAGES[name].seconds, time.monotonic()
    command = [sys.executable, "-m", "rpg_openrlhf.check.run_stage", name, platform, *([address] if address else [])]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, start_new_session=True, **pipes)
    status: int | None = None
    try:
        output, error = process.communicate(timeout=limit)
        status = process.returncode
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # the group, because engines start processes of their own
        output, error = process.communicate()
    except KeyboardInterrupt:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    if verbose:
        print(f"--- {name}\n{output}{error}", file=sys.stderr)
    lines = [line for line in output.splitlines() if line.startswith('{"stage"')]
    result = json.loads(lines[-1]) if lines else None
    if result is None:
        says = f"did not end in {limit} s" if status is None else f"ended with status {status} and no result"
        if status is not None and error.strip():
            says += f": {error.strip().splitlines()[-1].strip()[:200]}"
        result = {"stage": name, "status": "failed", "says": says, "fix": DEFAULT_FIX}
    return result | {"seconds": round(time.monotonic() - began, 1)}


def line_of(result: dict[str, str | float]) -> str:
    """Format a result for the terminal: stage, status, seconds, message, and the fix of a failure."""
    mark = {"ok": "ok", "failed": "FAILED", "skipped": "-"}[str(result["status"])]
    line = f"{result['stage']:<10} {mark:<7} {result['seconds']:>5} s  {result['says']}"
    return f"{line}\n{'':<26}to do: {result['fix']}" if result["status"] == "failed" else line


if __name__ == "__main__":
    sys.exit(main())
