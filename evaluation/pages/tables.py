"""Tables as values, independent of how they are written: methods in rows, benchmarks over columns, best marked."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from evaluation.pages.folders import Found, Run

TITLES = {
    "aime24": "AIME24", "aime25": "AIME25", "amc23": "AMC23", "math500": "MATH-500", "minerva_math": "Minerva-Math",
    "olympiadbench": "OlympiadBench",
}  # fmt: skip
DIGITS = {"score": 4, "share": 3, "number": 1, "count": 0, "p": 4, "difference": 4}


@dataclass(frozen=True)
class Cell:
    """A number with the intervals it may have: over other problems, and over other samples of the same problems."""

    value: float | None
    low: float | None = None
    high: float | None = None
    run_low: float | None = None
    run_high: float | None = None
    note: str = ""


NOTHING = Cell(None)


@dataclass(frozen=True)
class Column:
    """`form` is a key of DIGITS; the best and the second of a ranked column are marked, the highest being best."""

    group: str
    name: str
    form: str = "score"
    ranked: bool = False


@dataclass(frozen=True)
class Table:
    """`name` becomes the file's name; `rows` are (labels, cells), one label for each of `heads`."""

    name: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[tuple[str, ...], tuple[Cell, ...]], ...]
    heads: tuple[str, ...] = ("method",)
    notes: tuple[str, ...] = field(default=())


def shown(cell: Cell, column: Column) -> str:
    """A cell as a person reads it, without its interval; a dash where there is no number."""
    if cell.value is None or cell.value != cell.value:
        return cell.note or "–"
    sign = "+" if column.form == "difference" else ""
    return f"{cell.value:{sign},.{DIGITS[column.form]}f}"


def marks(table: Table) -> list[list[str]]:
    """`best`, `second` or nothing for each cell. Numbers that read alike are tied: all of them are marked."""
    marked = [["" for _ in table.columns] for _ in table.rows]
    for index, column in enumerate(table.columns):
        if not column.ranked:
            continue
        digits = DIGITS[column.form]
        values = [cells[index].value for _, cells in table.rows]
        rounded = [None if value is None else round(value, digits) for value in values]
        ranks = sorted({value for value in rounded if value is not None}, reverse=True)
        # A lone row has nothing to be better than, and where all tie there is no best.
        if len(ranks) < 2:
            continue
        for row, value in zip(marked, rounded, strict=True):
            row[index] = {ranks[0]: "best", ranks[1]: "second"}.get(value, "") if value is not None else ""
    return marked


def cell(found: dict[str, Any] | None) -> Cell:
    """A score of results.json."""
    if not found or found.get("value") is None:
        return NOTHING
    return Cell(*(found.get(key) for key in ("value", "low", "high", "run_low", "run_high")))


def benchmarks_of(runs: Iterable[Run]) -> list[str]:
    """Every benchmark that any run has, the paper's three first, each once."""
    paper = ("aime24", "aime25", "amc23")
    names = list(dict.fromkeys(name for run in runs for name in run.benchmarks))
    return [name for name in paper if name in names] + [name for name in names if name not in paper]


def title_of(benchmark: str) -> str:
    """A benchmark's name as the paper writes it."""
    return TITLES.get(benchmark, benchmark)


def largest_k(found: dict[str, Any], key: str) -> tuple[str, dict[str, Any] | None]:
    """The largest k of `pass@k` or `best@k`, as text, and its score."""
    scores = found.get(key) or {}
    k = max(scores, key=int, default="")
    return k, scores.get(k)


def samples_text(found: dict[str, Any]) -> str:
    """Samples of a problem: one number, or a range where the run is incomplete."""
    low, high = found["n_min"], found["n_max"]
    return str(high) if low == high else f"{low}-{high}"


def scores(runs: Sequence[Run]) -> Table:
    """A row for each run and benchmark: everything that results.json says of it, as numbers."""
    names = ("mean@n", "strict mean@n", "pass@n", "verl best@n", "maj@n", "clean mean@n")
    columns = [Column("", name, "share") for name in (*names, "no answer", "truncated", "timeout")]
    columns += [Column("", "mean tokens", "number"), Column("", "median tokens", "number")]
    columns += [Column("", name, "count") for name in ("problems", "samples", "planned")]
    rows = []
    for benchmark in benchmarks_of(runs):
        for run in runs:
            row = run.benchmarks.get(benchmark)
            if row:
                rows.append(((title_of(benchmark), run.label, samples_text(row)), _score_cells(row)))
    caption = "Scores. First bracket: 95 % over problems; second, slanted: from run to run on the same problems."
    return Table("scores", caption, tuple(columns), tuple(rows), ("benchmark", "run", "n"))


def _score_cells(found: dict[str, Any]) -> tuple[Cell, ...]:
    clean = (found.get("clean") or {}).get("mean")
    tops = [cell(largest_k(found, key)[1]) for key in ("pass@k", "best@k")]
    counts = [Cell(found[key]) for key in ("problems", "samples", "planned")]
    rates = [Cell(found.get(key)) for key in ("no_answer", "truncated", "timeout")]
    tokens = [Cell((found.get("tokens") or {}).get(key)) for key in ("mean", "median")]
    middle = [cell(found["mean"]), cell(found.get("strict")), *tops, cell(found.get("majority")), cell(clean)]
    return (*middle, *rates, *tokens, *counts)


def overview(runs: Sequence[Run]) -> Table:
    """Table for a terminal: the mean with its interval over problems, and what decides whether to believe it."""
    columns = [Column("", "mean@n", "share"), Column("", "strict", "share"), Column("", "pass@n", "share")]
    columns += [Column("", name, "share") for name in ("maj@n", "no answer", "truncated")]
    rows = []
    for name in benchmarks_of(runs):
        for run in runs:
            of = run.benchmarks.get(name)
            if of:
                bare = [of.get("strict"), largest_k(of, "pass@k")[1], of.get("majority")]
                cells = [cell(of["mean"]), *(Cell(score["value"]) if score else NOTHING for score in bare)]
                cells += [Cell(of.get(key)) for key in ("no_answer", "truncated")]
                rows.append(((title_of(name), run.label, samples_text(of)), tuple(cells)))
    caption = "Scores; brackets hold 95 % intervals over problems."
    return Table("overview", caption, tuple(columns), tuple(rows), ("benchmark", "run", "n"))


def methods(found: Found) -> Table:
    """The paper's shape for single models: a row each; mean@n, pass@n and maj@n of each benchmark."""
    runs, names = found.finals, benchmarks_of(found.finals)
    columns, ks = [], {}
    for name in names:
        ks[name] = _common(run.benchmarks[name] for run in runs if name in run.benchmarks)
        n, k = ks[name]
        columns += [Column(title_of(name), title, ranked=True) for title in (f"Mean@{n}", f"Pass@{k}", f"Maj@{n}")]
    rows = []
    for run in runs:
        cells: list[Cell] = []
        for name in names:
            row = run.benchmarks.get(name)
            k = ks[name][1]
            cells += (
                [cell(s) for s in (row["mean"], row["pass@k"].get(k), row.get("majority"))] if row else [NOTHING] * 3
            )
        rows.append(((run.label,), tuple(cells)))
    caption = "Mean, unbiased Pass and Maj of each model; brackets hold 95 % intervals over problems."
    return Table("methods", caption, tuple(columns), tuple(rows))


def _common(found: Iterable[dict[str, Any]]) -> tuple[str, str]:
    """n as text (`n` where the runs differ) and the largest k that every run has."""
    rows = list(found)
    texts = {samples_text(row) for row in rows}
    shared = set.intersection(*(set(row["pass@k"]) for row in rows)) if rows else set()
    return (texts.pop() if len(texts) == 1 else "n"), max(shared, key=int, default="n")


def pass_at_k(runs: Sequence[Run]) -> Table:
    """A row for each run and benchmark, a column for each k: unbiased, then verl's bootstrap."""
    names = benchmarks_of(runs)
    ks = sorted({int(k) for run in runs for row in run.benchmarks.values() for k in row.get("pass@k") or {}})
    columns = [Column(group, f"{k}", "share") for group in ("pass@k", "verl best@k") for k in ks]
    rows = []
    for name in names:
        for run in runs:
            row = run.benchmarks.get(name)
            if row:
                cells = [cell((row.get(key) or {}).get(str(k))) for key in ("pass@k", "best@k") for k in ks]
                rows.append(((title_of(name), run.label), tuple(cells)))
    caption = "Unbiased pass@k (Chen et al.) and verl's best@k, which is the paper's Pass@32."
    return Table("pass_at_k", caption, tuple(columns), tuple(rows), ("benchmark", "run"))
