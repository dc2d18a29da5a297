"""Verdicts that change when a folder is graded again: counted, printed, and kept in grade_changes.json."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from evaluation.grading.graded_row import Key, Row, grader_version, key_of
from evaluation.store import write_json

SHOWN_FLIPS = 20


@dataclass(frozen=True)
class Flip:
    """A sample whose verdict changed; `before`, `after`: reasons, with ", strict" if the strict form is right."""

    benchmark: str
    problem: str
    sample: int
    before: str
    after: str
    extracted: str | None


@dataclass(frozen=True)
class Changes:
    """Counts of new (`graded`) and repeated verdicts and of all `reasons`; `before` names the former graders."""

    graded: int
    regraded: int
    reasons: dict[str, int]
    flips: tuple[Flip, ...]
    grader: str
    before: tuple[str, ...]


def changes_of(folder: Path, rows: Sequence[Row], replaced: Mapping[Key, Row], graded: int) -> Changes:
    """Compare the current `rows` with the former ones in `replaced`, and write grade_changes.json if there are any."""
    flips = []
    for row in rows:
        old = replaced.get(key_of(row))
        if old is not None and (old["reason"], old["strict"]) != (row["reason"], row["strict"]):
            flips.append(Flip(*key_of(row), _shown(old), _shown(row), row["extracted"]))
    graders = tuple(sorted({row["grader"] for row in replaced.values()}))
    reasons = dict(Counter(row["reason"] for row in rows))
    changes = Changes(graded - len(replaced), len(replaced), reasons, tuple(flips), grader_version(), graders)
    if replaced:
        counts = Counter(f"{flip.before} -> {flip.after}" for flip in flips)
        write_json(folder / "grade_changes.json", asdict(changes) | {"counts": dict(counts)})
    return changes


def _shown(row: Row) -> str:
    return row["reason"] + (", strict" if row["strict"] else "")


def change_lines(folder: Path, changes: Changes) -> list[str]:
    """Lines to print after grading a folder."""
    total = sum(changes.reasons.values())
    lines = [f"{folder}: {total} verdicts, {changes.graded} new, {changes.regraded} made again ({changes.grader})"]
    most = sorted(changes.reasons.items(), key=lambda item: -item[1])
    lines += [f"  {reason:10} {count:7} {count / total:6.1%}" for reason, count in most]
    if changes.regraded:
        lines.append(f"  {len(changes.flips)} verdicts changed (before: {', '.join(changes.before)})")
    for flip in changes.flips[:SHOWN_FLIPS]:
        answer = ascii(flip.extracted)[:60] if flip.extracted is not None else "no answer"
        where = f"{flip.benchmark}/{flip.problem}/{flip.sample}"
        lines.append(f"    {where:36} {flip.before} -> {flip.after}   {answer}")
    if len(changes.flips) > SHOWN_FLIPS:
        lines.append(f"    ... and {len(changes.flips) - SHOWN_FLIPS} more in {folder / 'grade_changes.json'}")
    return lines
