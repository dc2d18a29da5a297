"""Benchmarks with which training rows are compared: files, folders of files, or six by name."""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rpg_openrlhf.errors import Refusal
from rpg_openrlhf.problems.benchmarks import HUB, from_hub
from rpg_openrlhf.problems.overlap import ProblemIndex
from rpg_openrlhf.problems.reading import rows_of
from rpg_openrlhf.problems.rows import BadRow, read_row

FLAG = "--decontaminate"


def benchmark_index(names: list[str], folder: Path | None) -> tuple[ProblemIndex, Counter[str]]:
    """Index of all problems, and their number per benchmark. folder: has NAME.jsonl for a benchmark by name."""
    problems = [problem for name in names for problem in _problems(name, folder)]
    return ProblemIndex(problems), Counter(problem["benchmark"] for problem in problems)


def _problems(name: str, folder: Path | None) -> Iterator[dict[str, Any]]:
    path = Path(name).expanduser()
    if path.is_dir():
        files = sorted(path.glob("*.jsonl"))
        if not files:
            raise Refusal(f"{FLAG} {name}: holds no *.jsonl")
    elif path.suffix in (".jsonl", ".json", ".parquet"):
        files = [path]
    elif folder is not None:
        files = [folder / f"{name}.jsonl"]
    elif name in HUB:
        fix = f"give --benchmark_dir with {name}.jsonl"
        for number, (place, row) in enumerate(from_hub(name, FLAG, fix), start=1):
            yield _problem(name, number, row, place)
        return
    else:
        raise Refusal(f"{FLAG} {name}: must be a file, a folder of *.jsonl, or one of {', '.join(HUB)}")
    for file in files:
        for number, row in rows_of(file, FLAG):
            yield _problem(file.stem, number, row, f"{file}:{number}")


def _problem(benchmark: str, number: int, raw: Any, place: str) -> dict[str, Any]:
    """Problem of a benchmark's row. A bad row is refused: without it, training rows that repeat it would be kept."""
    try:
        row = read_row(raw, "text" if isinstance(raw, Mapping) and "text" in raw else None)
    except BadRow as error:
        raise Refusal(f"{FLAG} {place} {error}") from None
    golds = raw.get("golds") or raw.get("final_answer")
    golds = [str(each) for each in golds] if isinstance(golds, list) else [str(raw.get("gold", row.answer))]
    return {"benchmark": benchmark, "problem": str(row.id or number), "text": row.text, "golds": golds}
