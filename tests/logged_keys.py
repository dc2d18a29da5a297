"""The table of docs/logs.md against what a run logged."""

import re
from fnmatch import fnmatchcase
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "logs.md"
BESIDE = {"kind", "step", "time"}  # of metrics.jsonl alone
CONDITIONS = {
    "score", "grader", "group", "filtering", "entropy", "correction", "RPG", "critic", "reference", "refresh",
    "replaced", "evaluation", "samples", "asynchronous",
}  # fmt: skip


def documented() -> dict[str, frozenset[str]]:
    """Key, or pattern of keys -> what must hold of a run for it to be logged."""
    text = PAGE.read_text(encoding="utf-8").split("## Every key")[1].split("\n## ")[0]
    found: dict[str, frozenset[str]] = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        keys = re.findall(r"`([^`]+)`", cells[0])
        if line.startswith("| `"):
            assert len(cells) == 5, f"five columns: {line}"
            assert cells[2], f"no description: {line}"
            conditions = frozenset(filter(None, map(str.strip, cells[1].split(","))))
            assert not set(keys) & found.keys(), f"twice: {line}"
            found |= dict.fromkeys(keys, conditions)
    return found


def check(logged: set[str], *holding: str) -> None:
    """Every key is documented, and every documented one whose conditions hold is logged; no other one is."""
    table, keys = documented(), logged - BESIDE
    unknown = {key for key in keys if not any(fnmatchcase(key, pattern) for pattern in table)}
    assert not unknown, f"docs/logs.md does not have {sorted(unknown)}"
    due = {pattern for pattern, conditions in table.items() if conditions <= set(holding)}
    made = {pattern for pattern in table if any(fnmatchcase(key, pattern) for key in keys)}
    assert made == due, f"docs/logs.md: never logged {sorted(due - made)}; logged all the same {sorted(made - due)}"
