"""Statistics of methods over several training runs, one per seed.

The unit is the run. Problems and samples within a run say how precisely one model was measured, not how the next run
would turn out. So intervals here are Student's over runs, and two methods are paired by seed.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import stats

from evaluation.scores.intervals import LEVEL

BySeed = Mapping[int, float]


@dataclass(frozen=True)
class Mean:
    """Mean of a method's runs, with the 95 % interval of Student's t; None for a single run or equal values."""

    value: float
    low: float | None
    high: float | None
    runs: int


@dataclass(frozen=True)
class Difference:
    """One method minus another over the seeds that both have; `p` two-sided, None where it is undefined."""

    value: float
    low: float | None
    high: float | None
    p: float | None
    seeds: int


def mean_of(scores: BySeed) -> Mean:
    """Mean over runs. ValueError without a run."""
    if not scores:
        raise ValueError("no run to take a mean of")
    values = np.asarray([scores[seed] for seed in sorted(scores)])
    low, high = _student(values)
    return Mean(float(values.mean()), low, high, len(values))


def difference(first: BySeed, second: BySeed) -> Difference:
    """Paired by seed. ValueError where no seed is in both."""
    seeds = sorted(first.keys() & second.keys())
    if not seeds:
        raise ValueError("the two methods have no seed in common")
    values = np.round([first[seed] - second[seed] for seed in seeds], 12)
    low, high = _student(values)
    moving = len(values) > 1 and np.ptp(values) > 0  # equal differences have no variance to test with
    p = float(stats.ttest_1samp(values, 0.0).pvalue) if moving else None
    return Difference(float(values.mean()), low, high, p, len(values))


def _student(values: np.ndarray) -> tuple[float | None, float | None]:
    if len(values) < 2 or np.ptp(values) == 0:
        return None, None
    half = stats.sem(values) * stats.t.ppf((1 + LEVEL) / 2, len(values) - 1)
    return float(values.mean() - half), float(values.mean() + half)
