"""Benchmark problems that a training file repeats: contamination.json of a run folder.

`rpg_openrlhf/problems/overlap.py` defines exact and near matches; data preparation uses it too.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rpg_openrlhf.errors import Refusal
from rpg_openrlhf.problems.overlap import ProblemIndex
from rpg_openrlhf.problems.reading import rows_of, sha256
from rpg_openrlhf.problems.rows import BadRow, read_row


def report(problems: Iterable[Mapping[str, Any]], training_file: Path) -> dict[str, Any]:
    """The content of contamination.json. problems: rows of problems.jsonl, of any number of benchmarks.

    {"examined": {NAME: problems}, "training_file", "sha256", "rows",
     "benchmarks": {NAME: {ID: {"kind": "exact" | "near", "rows": [id or line]}}}}
    The file is streamed. Refusal, a ValueError, names the row that cannot be read.
    """
    problems, count = list(problems), 0
    index = ProblemIndex(problems)
    repeats: dict[str, dict[str, Any]] = {row["benchmark"]: {} for row in problems}
    for number, raw in rows_of(training_file, "--train-data"):
        count += 1
        try:
            row = read_row(raw)
        except BadRow as error:
            raise Refusal(f"--train-data {training_file}:{number} {error}") from None
        for (benchmark, problem), kind in index.matches(row.text, row.answer).items():
            entry = repeats[benchmark].setdefault(problem, {"kind": kind, "rows": []})
            entry["rows"].append(number if row.id is None else row.id)
            if kind == "exact":
                entry["kind"] = kind
    if not count:
        raise Refusal(f"--train-data {training_file}: no rows in it")
    return {
        "examined": Counter(row["benchmark"] for row in problems),
        "training_file": training_file.name,
        "sha256": sha256(training_file),
        "rows": count,
        "benchmarks": repeats,
    }
