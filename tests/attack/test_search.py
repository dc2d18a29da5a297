"""The attack at a small size: every gold answer of the graded table, a few dozen wrong responses each."""

from collections import Counter
from pathlib import Path

from tests.attack.search import accepted

TABLE = Path(__file__).parents[1] / "unit" / "graded_answers.txt"


def test_no_wrong_response_is_taken_for_right():
    golds = [line for line in TABLE.read_text("utf-8").splitlines() if line and not line.startswith(("#", " "))]
    tried: Counter[str] = Counter()
    faults = list(accepted([*golds, *map(str, range(-20, 300))], 30, 1, tried))
    assert not faults
    assert sum(tried.values()) > 8_000
    assert len(tried) > 100
