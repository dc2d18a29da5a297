"""The quickstart's tiny model after a few supervised steps, and a benchmark of sums for it."""

import json
from pathlib import Path

import pytest

from tests.tiny import shared_tiny


def pytest_collection_modifyitems(items):
    """Everything here starts an engine."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    """A Hugging Face folder."""
    return shared_tiny(tmp_path_factory)[0]


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
