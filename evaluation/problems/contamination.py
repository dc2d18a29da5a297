"""Benchmark problems that a training file repeats: contamination.json of a run folder.

What exact and near mean is said in `rpg_openrlhf/problems/overlap.py`, which preparing the data uses too.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rpg_openrlhf.errors import Refusal
from rpg_openrlhf.problems.overlap import ProblemIndex
from rpg_openrlhf.problems.reading import rows_of, sha256
from rpg_openrlhf.problems.rows import BadRow, Row, read_row


def report(problems: Iterable[Mapping[str, Any]], training_file: Path) -> dict[str, Any]:
    """The content of contamination.json. problems: rows of problems.jsonl, of any number of benchmarks.

    {"examined": {NAME: problems}, "training_file", "sha256", "rows",
     "benchmarks": {NAME: {ID: {"kind": "exact" | "near", "rows": [id or line]}}}}
    The file is streamed. Refusal, a ValueError, names the row that cannot be read.
    """
    problems, count = list(problems), 0
    index = ProblemIndex(problems)
    repeats: dict[str, dict[str, Any]] = {row["benchmark"]: {} for row in problems}
    for row in training_rows(training_file):
        count += 1
        for (benchmark, problem), kind in index.matches(row.text, row.answer).items():
            entry = repeats[benchmark].setdefault(problem, {"kind": kind, "rows": []})
            entry["rows"].append(row.id)
            if kind == "exact":
                entry["kind"] = kind
    return {
        "examined": {name: sum(row["benchmark"] == name for row in problems) for name in repeats},
        "training_file": training_file.name,
        "sha256": sha256(training_file),
        "rows": count,
        "benchmarks": repeats,
    }


def training_rows(path: Path) -> Iterator[Row]:
    """Every row of a training file; its place is the name of one without an id."""
    empty = True
    for number, raw in rows_of(path, "--train-data"):
        empty = False
        try:
            row = read_row(raw)
        except BadRow as error:
            raise Refusal(f"--train-data {path}:{number} {error}") from None
        yield Row(number, row.text, row.answer) if row.id is None else row
    if empty:
        raise Refusal(f"--train-data {path}: no rows in it")
