"""Pipeline from raw rows to training rows: drop rows in a fixed order of reasons, and count them.

Rows are streamed. Only distinct problems stay in memory, as the trainer keeps its rows there too.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from rpg_openrlhf.problems.filters import digest, integer, is_english, is_gradable, same_answer, spacing_key
from rpg_openrlhf.problems.overlap import ProblemIndex
from rpg_openrlhf.problems.rows import BadRow, Row, read_row

Answers = Literal["integer", "gradable", "any"]
SHOWN = 3  # places named for each reason


@dataclass(frozen=True)
class Settings:
    """english: drop rows in other scripts; answers: kind to keep; *_field: the row's columns, or None to guess."""

    english: bool = True
    answers: Answers = "gradable"
    text_field: str | None = None
    answer_field: str | None = None


@dataclass
class Counts:
    """Numbers of rows read and dropped; for each reason, the places of the first rows dropped."""

    read: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    places: dict[str, list[str]] = field(default_factory=dict)
    overlaps: Counter[str] = field(default_factory=Counter)  # benchmark -> rows dropped for it

    def drop(self, reason: str, place: object) -> None:
        self.dropped[reason] += 1
        shown = self.places.setdefault(reason, [])
        if len(shown) < SHOWN:
            shown.append(str(place))


@dataclass
class Distinct:
    """First row of a problem. It is contradicted if a copy has another answer."""

    place: str
    row: Row
    is_contradicted: bool = False


NO_ANSWER = "has no answer"
NOT_ENGLISH, EXACT, SPACING = "not English", "exact copy of a problem before it", "copy of one up to spacing"
CONFLICT, OVERLAP = "copies have different answers", "repeats a benchmark's problem"
NO_INTEGER, NOT_GRADABLE = "answer is not an integer", "answer that the grader does not accept as its own"
ORDER = (NOT_ENGLISH, EXACT, SPACING, CONFLICT, NO_INTEGER, NOT_GRADABLE, OVERLAP)  # after bad rows


def distinct(rows: Iterable[tuple[str, Any]], chosen: Settings, counts: Counts) -> list[Distinct]:
    """Read every (place, row) once and keep the distinct problems, in the order of first appearance."""
    problems: list[Distinct] = []
    by_text: dict[bytes, Distinct] = {}  # digest of a text or of its spacing key
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
        reason, text = EXACT, digest(row.text)
        if text not in by_text:
            # The \0 keeps spacing keys apart from texts.
            reason, spaced = SPACING, digest("\0" + spacing_key(row.text))
            if spaced not in by_text:
                problems.append(Distinct(place, row))
                by_text[text] = by_text[spaced] = problems[-1]
                continue
            by_text[text] = by_text[spaced]
        counts.drop(reason, place)
        first = by_text[text]
        first.is_contradicted = first.is_contradicted or not same_answer(first.row.answer, row.answer)
    return problems


def _read(raw: Any, chosen: Settings) -> Row:
    row = raw if isinstance(raw, Row) else read_row(raw, chosen.text_field, chosen.answer_field)
    if not row.text.strip():
        raise BadRow("has an empty problem")
    if not row.answer:
        raise BadRow(NO_ANSWER)
    try:
        (row.text + row.answer).encode()
    except UnicodeEncodeError:  # half of a surrogate pair: valid in JSON, not in UTF-8
        raise BadRow("is not valid Unicode") from None
    return row


def sift(problems: Iterable[Distinct], chosen: Settings, index: ProblemIndex | None, counts: Counts) -> Iterator[Row]:
    """Yield the remaining rows in the order read; a row without an id gets its number among the distinct problems."""
    for number, problem in enumerate(problems, start=1):
        row, place = problem.row, problem.place
        plain = integer(row.answer)
        if problem.is_contradicted:
            counts.drop(CONFLICT, place)
        elif plain is None and chosen.answers == "integer":
            counts.drop(NO_INTEGER, place)
        elif plain is None and chosen.answers == "gradable" and not is_gradable(row.answer):
            counts.drop(NOT_GRADABLE, place)
        elif matches := index.matches(row.text, row.answer) if index else {}:
            counts.drop(OVERLAP, place)
            counts.overlaps.update({benchmark for benchmark, _ in matches})
        else:
            answer = plain if plain and chosen.answers == "integer" else row.answer
            yield Row(number if row.id is None else row.id, row.text, answer)


def held_out(rows: Iterable[Row], validation: int, seed: int) -> Callable[[Row], bool]:
    """Predicate for validation rows: those whose problems have the lowest hashes with the seed, in any order."""
    lowest = sorted(rows, key=lambda row: digest(f"{seed}:{row.text}"))[:validation]
    texts = {row.text for row in lowest}
    return lambda row: row.text in texts
