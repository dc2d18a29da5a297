"""Run one stage as a process: `python -m rpg_openrlhf.check.run_stage NAME PLATFORM [ADDRESS]`.

A stage is a function of the platform that returns its result in one line. It raises Failed with the problem and its
fix, or Skipped if there is nothing to test; any other exception counts as a failure too.
"""

from __future__ import annotations

import importlib
import json
import sys
import traceback

from rpg_openrlhf.check.stages import DEFAULT_FIX, STAGES, Failed, Skipped


def main(argv: list[str]) -> int:
    """Run one stage; its result is the last line of the output, as JSON."""
    name, platform = argv[0], argv[1]
    if platform == "cpu":
        from rpg_openrlhf import cpu_platform  # before anything that it patches

        cpu_platform.install()
    result = {"stage": name, "status": "ok", "says": "", "fix": ""}
    try:
        stage = getattr(importlib.import_module(f"rpg_openrlhf.check.{STAGES[name].module}"), name)
        result["says"] = stage(platform, *argv[2:])
    except Skipped as skipped:
        result |= {"status": "skipped", "says": str(skipped)}
    except Failed as failure:
        result |= {"status": "failed", "says": str(failure), "fix": failure.fix}
    except Exception as error:
        result |= {"status": "failed", "says": " ".join(f"{type(error).__name__}: {error}".split())[:300]}
        result["fix"] = DEFAULT_FIX
        traceback.print_exc()
    print("\n" + json.dumps(result), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
