"""The quickstart's model after two supervised steps, and 48 problems: made once, whatever the number of workers."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

QUICKSTART = Path(__file__).parents[1] / "examples" / "quickstart"


def make_tiny(folder: Path) -> tuple[Path, Path]:
    """Write them below `folder` -> the model's folder and the problems' file."""
    for command in (
        ["warm_up.py", "--out", folder / "model", "--steps", 2],
        ["arithmetic.py", "--out", folder / "data", "--rl", 48, "--heldout", 8],
    ):
        script, *flags = map(str, command)
        subprocess.run([sys.executable, QUICKSTART / script, *flags], check=True, capture_output=True)
    return folder / "model", folder / "data" / "rl.jsonl"


def shared_tiny(factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Those of this run of pytest: the first of its workers makes them, the others wait for it."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return make_tiny(factory.mktemp("tiny"))
    folder = factory.getbasetemp().parent / "tiny"  # of all workers
    with FileLock(f"{folder}.lock"):
        if not (folder / "data" / "rl.jsonl").exists():
            make_tiny(folder)
    return folder / "model", folder / "data" / "rl.jsonl"
