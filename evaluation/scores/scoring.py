"""Every score of one benchmark with both intervals, from counts and ballots; pure. Shapes: (P,) is problems."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from evaluation.scores.intervals import Ballot, Bounds, Statistic, over_problems, over_runs, votes_over_runs
from evaluation.scores.metrics import FloatArray, IntArray, best_at_k, majority, mean_at_n, pass_at_k

Score = dict[str, Any]
NO_SCORE: Score = dict.fromkeys(("value", "low", "high", "run_low", "run_high", "method")) | {"problems": 0}


def all_scores(
    correct: IntArray, strict: IntArray, samples: IntArray, ballots: Sequence[Ballot], ks: Sequence[int]
) -> dict[str, Any]:
    """{"mean", "strict", "majority": score, "pass@k", "best@k": {k as text: score}}; all inputs are (P,).

    A score is {"value", "low", "high", "run_low", "run_high", "problems", "method"}: `problems` counts those used,
    `method` is that of low and high. A k that no problem reaches is left out.
    """
    curves: dict[str, dict[str, Score]] = {"pass@k": {}, "best@k": {}}
    for k in ks:
        keep = samples >= k
        if keep.any():
            for name, curve in (("pass@k", pass_at_k), ("best@k", best_at_k)):
                curves[name][str(k)] = count_score(correct[keep], samples[keep], partial(curve, k=k))
    return {
        "mean": count_score(correct, samples, mean_at_n),
        "strict": count_score(strict, samples, mean_at_n),
        **curves,
        "majority": vote_score(ballots),
    }


def count_score(correct: IntArray, samples: IntArray, statistic: Statistic) -> Score:
    """The score of a statistic of (correct, samples); every problem must have enough samples for it."""
    return _score(statistic(correct, samples), over_runs(correct, samples, statistic))


def vote_score(ballots: Sequence[Ballot]) -> Score:
    """Score of maj@n."""
    values = np.asarray([majority(ballot.votes, ballot.right) for ballot in ballots])
    return _score(values, votes_over_runs(ballots))


def _score(values: FloatArray, run: Bounds | None) -> Score:
    if not len(values):
        return NO_SCORE
    # The sorted sum does not depend on the order of the problems, nor do the intervals.
    value = float(np.sort(values).mean())
    interval, (run_low, run_high) = over_problems(values), run or (None, None)
    return {
        "value": value,
        "low": min(interval.low, value),
        "high": max(interval.high, value),
        "run_low": run_low,
        "run_high": run_high,
        "problems": len(values),
        "method": interval.method,
    }
