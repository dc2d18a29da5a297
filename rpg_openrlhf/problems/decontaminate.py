"""The benchmarks that training rows are compared with: files, folders of files, or six by name."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rpg_openrlhf.config import Refusal
from rpg_openrlhf.problems.overlap import ProblemIndex
from rpg_openrlhf.problems.rows import BadRow, read_row
from rpg_openrlhf.problems.sources import rows_of

FLAG = "--decontaminate"
# name: dataset, configuration and split on the hub; a test holds them to those that the evaluation scores.
HUB = {
    "aime24": ("HuggingFaceH4/aime_2024", None, "train"),
    "aime25": ("math-ai/aime25", None, "test"),
    "amc23": ("math-ai/amc23", None, "test"),
    "minerva_math": ("math-ai/minervamath", None, "test"),
    "olympiadbench": ("Hothan/OlympiadBench", "OE_TO_maths_en_COMP", "train"),
    "math500": ("HuggingFaceH4/MATH-500", None, "test"),
}


def benchmark_index(names: list[str], folder: Path | None) -> tuple[ProblemIndex, dict[str, int]]:
    """The index of all problems, and how many each benchmark has. folder: where NAME.jsonl of a bare name lies."""
    problems = [problem for name in names for problem in _problems(name, folder)]
    sizes: dict[str, int] = {}
    for problem in problems:
        sizes[problem["benchmark"]] = sizes.get(problem["benchmark"], 0) + 1
    return ProblemIndex(problems), sizes


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
        yield from _from_hub(name)
        return
    else:
        raise Refusal(f"{FLAG} {name}: must be a file, a folder of *.jsonl, or one of {', '.join(HUB)}")
    for file in files:
        for number, row in rows_of(file, FLAG):
            yield _problem(file.stem, number, row, f"{file}:{number}")


def _problem(benchmark: str, number: int, raw: Any, place: str) -> dict[str, Any]:
    """A bad row of a benchmark is refused, not counted: a problem that is not compared with would seem clean."""
    if isinstance(raw, BadRow):
        raise Refusal(f"{FLAG} {place} {raw}")
    try:
        row = read_row(raw, "text" if "text" in raw else None)
    except BadRow as error:
        raise Refusal(f"{FLAG} {place} {error}") from None
    golds = raw.get("golds") or raw.get("final_answer")
    golds = [str(each) for each in golds] if isinstance(golds, list) else [str(raw.get("gold", row.answer))]
    return {"benchmark": benchmark, "problem": str(row.id or number), "text": row.text, "golds": golds}


def _from_hub(name: str) -> Iterator[dict[str, Any]]:
    dataset, config, split = HUB[name]
    try:
        from datasets import load_dataset  # imported late: slow, and files need none of it

        rows = load_dataset(dataset, config, split=split)
    except Exception as error:  # the library raises a dozen kinds
        reason = " ".join(str(error).split())[:160]
        raise Refusal(
            f"{FLAG} {name}: {dataset} cannot be had from the hub ({reason}); give --benchmark_dir with {name}.jsonl"
        ) from None
    for number, row in enumerate(rows, start=1):
        yield _problem(name, number, row, f"{dataset}:{number}")
