"""Solve rates per problem: a row for each run, a column for each problem, ready for the page."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from evaluation.pages.folders import Found, Run
from evaluation.pages.table import title_of
from evaluation.pages.tables import benchmarks_of

CELLS = 4_000  # of one benchmark; beyond that, checkpoints are thinned out evenly
LEVELS = 11  # .h0 (dark, never solved) to .h10 of style.css: cividis colours, readable with any colour vision


class Heat(NamedTuple):
    """One cell; `level` is its colour, 0 to 10, or None if the run has no sample of the problem."""

    problem: str
    level: int | None
    percent: str
    words: str


@dataclass(frozen=True)
class HeatMap:
    """`rows` are (run's label, cells); `note` says if some were left out."""

    benchmark: str
    title: str
    rows: Sequence[tuple[str, Sequence[Heat]]]
    note: str


def heat_maps(found: Found) -> list[HeatMap]:
    """One for each benchmark."""
    maps = []
    for name in benchmarks_of(found.all_runs):
        runs = [run for run in found.all_runs if name in run.benchmarks]
        problems = list(dict.fromkeys(p for run in runs for p in run.benchmarks[name]["per_problem"]))
        room = min(len(runs), max(2, CELLS // max(1, len(problems))))
        kept = [runs[round(place * (len(runs) - 1) / max(1, room - 1))] for place in range(room)]
        rows = [(run.label, [_heat(run, name, problem) for problem in problems]) for run in kept]
        note = f"{len(kept)} of {len(runs)} runs are shown." if len(kept) < len(runs) else ""
        maps.append(HeatMap(name, title_of(name), rows, note))
    return maps


def _heat(run: Run, benchmark: str, problem: str) -> Heat:
    row = run.benchmarks[benchmark]["per_problem"].get(problem)
    if not row or not row["n"]:
        return Heat(problem, None, "", f"{problem}, {run.label}: no samples")
    share = row["correct"] / row["n"]
    # The lowest and highest level mean never and always solved.
    level = round(share * (LEVELS - 1)) if share in (0, 1) else min(LEVELS - 2, max(1, round(share * (LEVELS - 1))))
    words = f"{problem}, {run.label}: {row['correct']} of {row['n']} correct ({share:.0%})"
    return Heat(problem, level, f"{share * 100:.0f}", words)
