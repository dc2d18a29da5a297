"""Series grouped by method and seed, and tables over them: Last and Best, and every pair of methods."""

import math
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from evaluation.pages import training_log
from evaluation.pages.folders import Run, Series
from evaluation.pages.table import Score, Table, title_of
from evaluation.pages.tables import benchmarks_of, choose_of
from evaluation.scores import seeds
from evaluation.scores.intervals import holm
from evaluation.scores.seeds import Difference
from evaluation.scores.selection import Selection

REWARD = "training reward"  # a measure beside the benchmarks: mean over all rollouts, so that speed counts
SAMPLED_BY_REWARD = "dynamic_filtering_pass_rate"  # logged where groups are dropped by their reward
LABEL = re.compile(r"(?P<method>.+)-seed(?P<seed>\d+)")


@dataclass(frozen=True)
class Method:
    """A method's shown name, and its series by seed."""

    name: str
    runs: dict[int, Series]


@dataclass(frozen=True)
class Pair:
    """`first` minus `second`; `holm` corrects p for the number of pairs."""

    first: str
    second: str
    difference: Difference
    holm: float | None


def by_method(series: Sequence[Series]) -> list[Method]:
    """Runs by method, in order of first appearance. ValueError for a label that does not end with -seedN."""
    methods: dict[str, dict[int, Series]] = {}
    for run in series:
        match = LABEL.fullmatch(run.label)
        if match is None:
            raise ValueError(f"{run.folder}: its label {run.label!r} is not METHOD-seedN; evaluate it with --label")
        methods.setdefault(shown_name(match["method"]), {})[int(match["seed"])] = run
    return [Method(name, dict(sorted(runs.items()))) for name, runs in methods.items()]


def shown_name(layer: str) -> str:
    """A layer's name as the paper writes the method: rpg_reinforce_urkl is RPG-REINFORCE-URKL."""
    return layer.removesuffix("_as_released").replace("_", "-").upper().replace("BASELINE", "baseline")


def runs_of(methods: Sequence[Method]) -> list[Run]:
    """Every evaluated checkpoint."""
    return [run for method in methods for series in method.runs.values() for run in series.runs]


def selections(method: Method, benchmark: str) -> dict[int, Selection]:
    """Last and Best of every run that has the benchmark."""
    chosen = {seed: choose_of(series, benchmark) for seed, series in method.runs.items()}
    return {seed: selected for seed, selected in chosen.items() if selected is not None}


def rewards_of(method: Method) -> dict[int, float]:
    """Mean reward over all rollouts by seed, of runs that logged it without dynamic sampling.

    Dynamic sampling keeps groups by their reward, so the reward that it logs is not comparable.
    """
    rewards = {}
    for seed, series in method.runs.items():
        path = series.training_log
        if path is not None and path.is_file():
            rows = training_log.read(path)
            values = training_log.curve(rows, "reward")[1]
            if values and not any(SAMPLED_BY_REWARD in row for row in rows) and all(map(math.isfinite, values)):
                rewards[seed] = statistics.mean(values)
    return rewards


def scores_of(method: Method, measure: str) -> dict[int, float]:
    """The last checkpoint's score of every run on the benchmark `measure`; for REWARD, the training reward."""
    if measure == REWARD:
        return rewards_of(method)
    return {seed: selected.last.value for seed, selected in selections(method, measure).items()}


def last_best(methods: Sequence[Method]) -> Table:
    """The paper's table over seeds; brackets are 95 % intervals of the mean over a method's runs."""
    rows = []
    for method in methods:
        scores: dict = {}
        for name in benchmarks_of(runs_of(methods)):
            chosen = selections(method, name)
            corrected = {seed: selected.corrected for seed, selected in chosen.items()}
            scores[name, "Last"] = _mean({seed: selected.last.value for seed, selected in chosen.items()})
            scores[name, "Best"] = _mean({seed: selected.best.value for seed, selected in chosen.items()})
            scores[name, "Best, corrected"] = _mean({s: value for s, value in corrected.items() if value is not None})
        scores[REWARD] = _mean(rewards_of(method))
        rows.append(((method.name, str(len(method.runs))), scores))
    caption = (
        "Mean over runs of the score at the last checkpoint and at the best one; brackets: Student's 95 % over runs. "
        "Best is picked on the test itself; corrected: picked on half of the samples and scored on the other. "
        "Training reward: mean over all rollouts, so that speed counts; none where groups are kept by their reward."
    )
    return Table("last_best", caption, tuple(rows[0][1]), rows, ("method", "runs"), ranked=True)


def _mean(scores: dict[int, float]) -> Score:
    return vars(seeds.mean_of(scores)) if scores else None


def pairs(methods: Sequence[Method], measure: str) -> list[Pair]:
    """Every two methods that share a seed, in the order of methods; `measure` is a benchmark's name, or REWARD."""
    scores = {method.name: scores_of(method, measure) for method in methods}
    named = [
        (first, second, seeds.difference(scores[first], scores[second]))
        for first, second in combinations(scores, 2)
        if scores[first].keys() & scores[second].keys()
    ]
    corrected = holm([difference.p for _, _, difference in named])
    return [Pair(*row, p) for row, p in zip(named, corrected, strict=True)]


def pair_table(pairs: Sequence[Pair], measure: str) -> Table:
    """The differences of all pairs."""
    rows = []
    for pair in pairs:
        numbers = {"p": pair.difference.p, "Holm's p": pair.holm, "seeds": pair.difference.seeds}
        rows.append(((pair.first, pair.second), {"difference": vars(pair.difference), **numbers}))
    what = "Training reward, mean over rollouts" if measure == REWARD else f"{title_of(measure)}, last checkpoint"
    caption = (
        f"{what}: first minus second, paired by seed; Student's 95 % and two-sided p; "
        f"Holm's p corrects for {len(pairs)} pairs."
    )
    return Table(f"pairs_{measure.replace(' ', '_')}", caption, tuple(rows[0][1]), rows, ("first", "second"))
