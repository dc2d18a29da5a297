"""Problems of a benchmark, checked: from the hub, a folder of JSONL files, or a user's own file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation.problems.benchmark_sources import Source, from_file, from_hub
from evaluation.problems.benchmarks import Benchmark, BenchmarkError, known, nearest
from evaluation.problems.golds import golds_of, plain_integer, plain_number, tolerance_of
from rpg_openrlhf.problems.reading import KINDS
from rpg_openrlhf.problems.rows import label_text


@dataclass(frozen=True)
class Problem:
    """`golds`: every acceptable answer, `gold` first; `tolerance` is absolute; `multiple`: it has several values."""

    benchmark: str
    id: str
    text: str
    gold: str
    golds: tuple[str, ...]
    tolerance: float | None = None
    multiple: bool = False


@dataclass(frozen=True)
class Loaded:
    """`problems` are those used; `rows` counts all rows of the source, and `sha256` is of the whole source."""

    benchmark: Benchmark
    problems: tuple[Problem, ...]
    source: str
    revision: str | None
    sha256: str
    rows: int


def load(
    name_or_path: str, data_dir: Path | None = None, extra: Path | None = None, limit: int | None = None
) -> Loaded:
    """Load and check a benchmark's problems; `limit` keeps the first. BenchmarkError names file and line."""
    rows = known(extra)
    path = Path(name_or_path)
    if name_or_path in rows:
        benchmark = rows[name_or_path]
        if benchmark.path:
            source = from_file(benchmark.path)
        elif data_dir is not None:
            source = from_file(data_dir / f"{benchmark.name}.jsonl")
        else:
            source = from_hub(benchmark)
    elif path.suffix in KINDS or path.is_file():
        if not path.is_file():
            raise BenchmarkError(f"--benchmarks {name_or_path} does not exist")
        # A file named like a shipped benchmark must pass its checks: a score must not carry a wrong name.
        benchmark = rows.get(path.stem, Benchmark(path.stem, path=path))
        source = from_file(path)
    else:
        raise BenchmarkError(
            f"--benchmarks {name_or_path}: not one of {', '.join(rows)}, and no file of problems"
            + nearest(name_or_path, rows)
        )
    problems = _problems(benchmark, source)
    used = problems if limit is None else problems[:limit]
    return Loaded(benchmark, tuple(used), source.name, source.revision, source.sha256, len(problems))


def _problems(benchmark: Benchmark, source: Source) -> list[Problem]:
    problems: list[Problem] = []
    places: dict[str, str] = {}
    for place, row in source.rows:
        problem = _problem(benchmark, place, row)
        if problem.id in places:
            raise BenchmarkError(f"{place}: id {problem.id!r} is also that of {places[problem.id]}")
        places[problem.id] = place
        problems.append(problem)
    expected = benchmark.hub_rows if source.is_hub and benchmark.hub_rows is not None else benchmark.rows
    if expected is not None and len(problems) != expected:
        raise BenchmarkError(
            f"{source.name}: {benchmark.name} must have {expected} rows, this has {len(problems)}: "
            "get the complete file, or rename yours"
        )
    if not problems:
        raise BenchmarkError(f"{source.name}: holds no problems")
    return problems


def _problem(benchmark: Benchmark, place: str, row: dict[str, Any]) -> Problem:
    def value(name: str) -> Any:
        value = row.get(benchmark.columns.get(name, name))
        # A shipped row names the hub's columns; a file in --data-dir may use our names. A user's row is exact.
        return row.get(name) if value is None and benchmark.path is None else value

    meta = row["meta"] if isinstance(row.get("meta"), dict) else row
    text, answer, identity = value("problem"), value("answer"), value("id")
    if not isinstance(text, str) or not text.strip():
        raise _missing(benchmark, place, "text", "problem", row)
    released = answer_text(answer)
    if not released:
        raise _missing(benchmark, place, "answer", "answer", row)
    gold = _checked(benchmark, place, released)
    try:
        tolerance = tolerance_of(value("tolerance") if value("tolerance") is not None else meta.get("error"))
    except ValueError as error:
        raise BenchmarkError(f"{place}: {error}") from None
    multiple = bool(meta.get("is_multiple_answer")) or (isinstance(answer, list) and len(answer) > 1)
    further = value("golds") if isinstance(value("golds"), list) else []
    golds = golds_of(gold, meta, multiple, [released, *map(answer_text, further)])
    # The line number if the row has no id.
    name = answer_text(identity) or place.rpartition(":")[2]
    return Problem(benchmark.name, name, text, gold, golds, tolerance, multiple)


def _missing(benchmark: Benchmark, place: str, what: str, name: str, row: dict[str, Any]) -> BenchmarkError:
    """Error of a row without a problem or an answer; it lists the columns if the one looked for is not among them."""
    column = benchmark.columns.get(name, name)
    if column in row:
        return BenchmarkError(f"{place}: no {what} in {column!r}")
    return BenchmarkError(
        f"{place}: no {what} in {column!r}, the columns are {', '.join(row) or '(none)'}: name yours in a "
        f"--benchmark-file, e.g. mine: {{path: FILE, columns: {{problem: COLUMN, answer: COLUMN}}}}"
    )


def answer_text(answer: Any) -> str:
    """An answer column as text: "27" for 27.0, "1, 2" for ["1", "2"], "" if it is no answer."""
    if isinstance(answer, list) and answer:
        parts = [answer_text(part) for part in answer]
        return ", ".join(parts) if all(parts) else ""
    if isinstance(answer, float) and answer.is_integer():
        return str(int(answer))
    return (label_text(answer) or "").strip()


def _checked(benchmark: Benchmark, place: str, answer: str) -> str:
    """The answer in its type's plain form: no leading zeros, dollars or degrees for integers."""
    if benchmark.answer_type == "math":
        return answer
    plain = plain_integer(answer) if benchmark.answer_type == "integer" else plain_number(answer)
    shown = answer if len(answer) < 60 else answer[:57] + "..."
    if plain is None:
        raise BenchmarkError(f"{place}: the answer {shown!r} is not of the type {benchmark.answer_type}")
    if benchmark.largest is not None and not 0 <= int(plain) <= benchmark.largest:
        raise BenchmarkError(f"{place}: the answer {shown!r} is not in 0 to {benchmark.largest}")
    return plain
