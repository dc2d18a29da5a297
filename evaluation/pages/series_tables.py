"""Tables over several evaluations: Last and Best of each method as the paper gives them, and paired differences."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from evaluation.pages.folders import Found, Run, Series
from evaluation.pages.step_figures import positions
from evaluation.pages.tables import NOTHING, Cell, Column, Table, benchmarks_of, cell, title_of
from evaluation.scores import comparison, selection
from evaluation.scores.selection import Selection

POOLED = "mean of benchmarks"
PAIRED = (
    "Differences are the first model minus the second, problem by problem, so that how hard a problem is cancels out. "
    "Intervals resample problems; p is two-sided, from swapping the two within problems; Holm's p corrects for the "
    "number of benchmarks."
)


@dataclass(frozen=True)
class Chosen:
    """Last and Best of one series on one benchmark."""

    series: Series
    benchmark: str
    found: Selection


def choose(found: Found) -> list[Chosen]:
    """Choice of a checkpoint for every series and benchmark."""
    chosen = []
    for series in found.series:
        for name in benchmarks_of(series.runs):
            of = choose_of(series, name)
            if of is not None:  # every checkpoint may have failed on this benchmark
                chosen.append(Chosen(series, name, of))
    return chosen


def choose_of(series: Series, benchmark: str) -> Selection | None:
    """Last and Best of one series; None where no checkpoint has the benchmark."""
    steps = [int(step) for step in positions(series)]
    counts = [(step, _counts(run, benchmark)) for step, run in zip(steps, series.runs, strict=True)]
    counts = [(step, row) for step, row in counts if row]
    return selection.last_and_best(counts) if counts else None


def _counts(run: Run, name: str) -> dict[str, tuple[int, int]]:
    problems = run.benchmarks.get(name, {}).get("per_problem", {})
    return {problem: (row["correct"], row["n"]) for problem, row in problems.items() if row["n"]}


def last_best(found: Found, chosen: Sequence[Chosen]) -> Table:
    """The paper's table: a row a method, Last and Best of each benchmark. A single model has a Last alone."""
    names = benchmarks_of(found.all_runs)
    columns = [Column(title_of(name), title, ranked=True) for name in names for title in ("Last", "Best")]
    by_key = {(id(choice.series), choice.benchmark): choice.found for choice in chosen}
    rows = []
    for run in found.runs:
        means = [run.benchmarks.get(name, {}).get("mean") for name in names]
        cells = [part for mean in means for part in (Cell(mean["value"]) if mean else NOTHING, NOTHING)]
        rows.append(((run.label,), tuple(cells)))
    for series in found.series:
        picked = [by_key.get((id(series), name)) for name in names]
        cells = [
            part for p in picked for part in ((Cell(p.last.value), Cell(p.best.value)) if p else (NOTHING, NOTHING))
        ]
        rows.append(((series.label,), tuple(cells)))
    notes = [f"Best is the highest of {_counts_text(chosen)} evaluations on the test itself: see its corrected value."]
    caption = "Last and Best mean score over the checkpoints of each run; best bold, second underlined."
    return Table("last_best", caption, tuple(columns), tuple(rows), notes=tuple(notes))


def _counts_text(chosen: Sequence[Chosen]) -> str:
    counts = sorted({choice.found.evaluations for choice in chosen})
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def corrected(chosen: Sequence[Chosen]) -> Table:
    """Best with the number of evaluations it was picked from, and an estimate that picking does not raise."""
    columns = [Column("", "Last"), Column("", "at step", "count"), Column("", "Best"), Column("", "at step ", "count")]
    columns += [
        Column("", "evaluations", "count"),
        Column("", "Best, corrected"),
        Column("", "Best − corrected", "difference"),
    ]
    rows, notes = [], []
    names = benchmarks_of(run for one in chosen for run in one.series.runs)
    for one in sorted(chosen, key=lambda one: names.index(one.benchmark)):
        of = one.found
        gain = None if of.corrected is None else of.best.value - of.corrected
        numbers = (of.last.value, of.last.step, of.best.value, of.best.step, of.evaluations, of.corrected, gain)
        rows.append(((title_of(one.benchmark), one.series.label), tuple(map(Cell, numbers))))
        notes += [f"{one.series.label}, {title_of(one.benchmark)}: {text}" for text in of.warnings]
    methods = {one.found.method for one in chosen} - {None}
    halves = " and ".join(sorted(methods)) or "samples"
    caption = (
        "Best is a maximum over evaluations, so it is too high even where nothing changes. Corrected: the checkpoint "
        f"is picked on one half of the {halves} and scored on the other, averaged over many splits."
    )
    return Table("selection", caption, tuple(columns), tuple(rows), ("benchmark", "run"), tuple(notes))


def compare(pairs: Sequence[tuple[Run, Run]]) -> Table:
    """The first of each pair minus the second, the same in all, paired by problem. ComparisonError if meaningless."""
    columns = [Column("", "difference", "difference"), Column("", "p", "p"), Column("", "Holm's p", "p")]
    columns += [Column("", "first", "share"), Column("", "second", "share")]
    columns += [Column("", name, "count") for name in ("won", "tied", "lost", "problems")]
    columns += [Column("", "s.e. paired"), Column("", "s.e. unpaired")]
    rows: list[tuple[tuple[str, ...], tuple[Cell, ...]]] = []
    notes: dict[str, list[str]] = {}
    for run, other in pairs:
        found = comparison.compare(run.results, other.results)
        rows += [((title_of(name), run.label), _paired(row)) for name, row in found["benchmarks"].items()]
        rows += [((POOLED, run.label), _paired(found["pooled"]))] if found["pooled"] else []
        for text in found["warnings"]:
            notes.setdefault(text, []).append(run.label)
    names = [*map(title_of, benchmarks_of(run for pair in pairs for run in pair)), POOLED]
    rows.sort(key=lambda row: names.index(row[0][0]))
    second = pairs[0][1].label
    caption = f"{pairs[0][0].label} minus {second}" if len(pairs) == 1 else f"Each model minus {second}"
    told = tuple(f"{', '.join(labels)}: {text}" for text, labels in notes.items())
    return Table("comparison", caption, tuple(columns), tuple(rows), ("benchmark", "model"), told)


def _paired(row: dict[str, Any]) -> tuple[Cell, ...]:
    difference = cell({"value": row["difference"], "low": row["low"], "high": row["high"]})
    keys = ("p", "p_holm", "a", "b", "won", "tied", "lost", "problems", "se_paired", "se_unpaired")
    return (difference, *(Cell(row.get(key)) for key in keys))
