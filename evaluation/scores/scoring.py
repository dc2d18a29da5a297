"""Every score of one benchmark with both intervals, from counts and ballots; pure. Shapes: (P,) is problems."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from evaluation.scores.intervals import Ballot, Bounds, Interval, over_problems, over_runs, votes_over_runs
from evaluation.scores.metrics import FloatArray, IntArray, best_at_k, majority, mean_at_n, pass_at_k

Score = dict[str, Any]
NO_SCORE: Score = dict.fromkeys(("value", "low", "high", "run_low", "run_high", "method")) | {"problems": 0}


def all_scores(
    correct: IntArray, strict: IntArray, samples: IntArray, ballots: Sequence[Ballot], ks: Sequence[int]
) -> dict[str, Any]:
    """{"mean", "strict", "majority": score, "pass@k", "best@k": {k as text: score}}; all inputs are (P,), P >= 1.

    A score is {"value", "low", "high", "run_low", "run_high", "problems", "method"}: `problems` have samples enough,
    `method` made low and high. A k that no problem reaches is left out.
    """
    mean = count_scores(correct, samples, {"mean": mean_at_n})["mean"]
    curves: dict[str, dict[str, Score]] = {"pass@k": {}, "best@k": {}}
    reached = [k for k in ks if k <= samples.max()]
    # With equal n all k share one set of problems, so one resampling; with unequal n each set has its own.
    for smallest in sorted({int(samples[samples >= k].min()) for k in reached}):
        group = [k for k in reached if int(samples[samples >= k].min()) == smallest]
        keep = samples >= smallest
        statistics = {f"pass@k {k}": partial(_at, pass_at_k, k) for k in group}
        statistics |= {f"best@k {k}": partial(_at, best_at_k, k) for k in group}
        for name, score in count_scores(correct[keep], samples[keep], statistics).items():
            kind, k = name.split()
            curves[kind][k] = score
    return {
        "mean": mean,
        "strict": count_scores(strict, samples, {"strict": mean_at_n})["strict"],
        **curves,
        "majority": vote_score(ballots),
    }


def _at(curve: Callable[[IntArray, IntArray, int], FloatArray], k: int, c: IntArray, n: IntArray) -> FloatArray:
    return curve(c, n, k)


def count_scores(
    correct: IntArray, samples: IntArray, statistics: dict[str, Callable[[IntArray, IntArray], FloatArray]]
) -> dict[str, Score]:
    """A score for each statistic of (correct, samples); every problem has samples enough for all of them."""
    values = np.asarray([statistic(correct, samples) for statistic in statistics.values()])
    runs = over_runs(correct, samples, list(statistics.values()))
    rows = zip(statistics, values, over_problems(values), runs, strict=True)
    return {name: _score(row, interval, run) for name, row, interval, run in rows}


def vote_score(ballots: Sequence[Ballot]) -> Score:
    """maj@n."""
    values = np.asarray([majority(ballot.votes, ballot.right) for ballot in ballots])
    return _score(values, over_problems(values[None])[0], votes_over_runs(ballots))


def _score(values: FloatArray, interval: Interval, run: Bounds | None) -> Score:
    low, high = run or (None, None)
    # The sorted sum does not depend on the order of the problems, nor do the intervals.
    value = float(np.sort(values).mean())
    return {
        "value": value,
        "low": min(interval.low, value),
        "high": max(interval.high, value),
        "run_low": low,
        "run_high": high,
        "problems": len(values),
        "method": interval.method,
    }
