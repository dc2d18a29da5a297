"""The quickstart's tiny model after a few supervised steps, and a benchmark of sums for it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
QUICKSTART = ROOT / "examples" / "quickstart"


def pytest_collection_modifyitems(items):
    """Everything here starts an engine."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    """A Hugging Face folder."""
    folder = tmp_path_factory.mktemp("tiny") / "model"
    command = [sys.executable, QUICKSTART / "warm_up.py", "--out", folder, "--steps", "2"]
    subprocess.run(command, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="session")
def sums(tmp_path_factory) -> Path:
    """A user's own benchmark: twelve sums, as the tiny model reads them."""
    path = tmp_path_factory.mktemp("data") / "sums.jsonl"
    rows = [
        {"id": f"sum-{i}", "problem": f"{1000 + 37 * i}+{2000 + i}=\n", "answer": str(3000 + 38 * i)}
        for i in range(12)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
