"""Rows to a training file: what is left out, in which order, and how much of it.

Two passes. The first reads every row once and writes the distinct problems to a spool; the second knows which of them
are contradicted, compares with the benchmarks, and holds out the validation part. Memory grows with the number of
distinct problems, by their digests, not with the number of rows nor with their texts.
"""

import heapq
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rpg_openrlhf.problems.filters import digest, integer, is_english, is_gradable
from rpg_openrlhf.problems.merge import Copies
from rpg_openrlhf.problems.overlap import ProblemIndex
from rpg_openrlhf.problems.rows import BadRow, Row, read_row

Answers = Literal["integer", "gradable", "any"]
SHOWN = 3  # places named for each reason


@dataclass(frozen=True)
class Settings:
    """english: rows of other scripts are dropped; answers: which are kept; fields: where they are, if not guessed."""

    english: bool = True
    answers: Answers = "gradable"
    text_field: str | None = None
    answer_field: str | None = None
    validation: int = 0
    seed: int = 0


@dataclass
class Counts:
    """Rows by what became of them; for what was dropped, where the first of them stand."""

    read: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    places: dict[str, list[str]] = field(default_factory=dict)
    overlaps: Counter[str] = field(default_factory=Counter)  # benchmark -> rows dropped for it

    def drop(self, reason: str, place: object) -> None:
        self.dropped[reason] += 1
        shown = self.places.setdefault(reason, [])
        if len(shown) < SHOWN:
            shown.append(str(place))


NOT_ENGLISH, EXACT, SPACING = "not English", "exact copy of a problem before it", "copy of one up to spacing"
CONFLICT, OVERLAP = "copies have different answers", "repeats a benchmark's problem"
NO_INTEGER, NOT_GRADABLE = "answer is not an integer", "answer that the grader does not accept as its own"
ORDER = (NOT_ENGLISH, EXACT, SPACING, CONFLICT, NO_INTEGER, NOT_GRADABLE, OVERLAP)  # after bad rows


def spool(rows: Iterable[tuple[str, Any]], chosen: Settings, path: Path, counts: Counts) -> set[int]:
    """First pass: (place, row) to distinct problems, a JSON line each. Returns the lines that a copy contradicts."""
    copies = Copies()
    with path.open("w", encoding="utf-8") as file:
        for place, raw in rows:
            counts.read += 1
            try:
                row = _read(raw, chosen)
            except BadRow as error:
                counts.drop(str(error), place)
                continue
            if chosen.english and not is_english(row.text):
                counts.drop(NOT_ENGLISH, place)
                continue
            seen = copies.add(row.text, row.answer)
            if seen == "new":
                file.write(json.dumps([place, row.id, row.text, row.answer]) + "\n")
            else:
                counts.drop(EXACT if seen == "exact" else SPACING, place)
    return copies.conflicting


def _read(raw: Any, chosen: Settings) -> Row:
    if isinstance(raw, BadRow):
        raise raw
    row = raw if isinstance(raw, Row) else read_row(raw, chosen.text_field, chosen.answer_field)
    if not row.text.strip():
        raise BadRow("has an empty problem")
    if not row.answer:
        raise BadRow("has no answer")
    try:
        (row.text + row.answer).encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can hold and no file of text can
        raise BadRow("is not valid Unicode") from None
    return row


def sift(
    path: Path, conflicting: set[int], chosen: Settings, index: ProblemIndex | None, counts: Counts
) -> Iterator[Row]:
    """Second pass, over the spool: the rows that are left, in the order read."""
    for line, (place, row) in enumerate(spooled(path)):
        plain = integer(row.answer)
        if line in conflicting:
            counts.drop(CONFLICT, place)
        elif plain is None and chosen.answers == "integer":
            counts.drop(NO_INTEGER, place)
        elif plain is None and chosen.answers == "gradable" and not is_gradable(row.answer):
            counts.drop(NOT_GRADABLE, place)
        elif matches := index.matches(row.text, row.answer) if index else {}:
            counts.drop(OVERLAP, place)
            counts.overlaps.update({benchmark for benchmark, _ in matches})
        else:
            yield Row(row.id, row.text, plain or row.answer) if chosen.answers == "integer" else row


def spooled(path: Path) -> Iterator[tuple[str, Row]]:
    """(place, row) of every line of a spool."""
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            place, name, problem, answer = json.loads(line)
            yield place, Row(number if name is None else name, problem, answer)


def save(rows: Iterable[Row], path: Path) -> int:
    """Rows to a spool of their own; how many there were."""
    with path.open("w", encoding="utf-8") as file:
        lines = (json.dumps(["", row.id, row.text, row.answer]) + "\n" for row in rows)
        return sum(1 for line in lines if file.write(line))


def held_out(path: Path, chosen: Settings) -> Callable[[Row], bool]:
    """Is a row of the validation part? It holds the problems that hash lowest with the seed, whatever their order."""
    marks = ((digest(f"{chosen.seed}:{row.text}"), digest(row.text)) for _, row in spooled(path))
    held = {mark for _, mark in heapq.nsmallest(chosen.validation, marks)}
    return lambda row: digest(row.text) in held
