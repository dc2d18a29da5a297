"""Scores of one benchmark from counts; pure. Shapes: (P,) is problems; `samples` are those that exist, not the plan.

A problem with fewer than k samples has the value NaN at k; the caller leaves it out of the average and says how many
problems remain. A benchmark's score is the mean over problems with equal weights, whatever their samples.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
QUANTILES = {"q05": 0.05, "q25": 0.25, "median": 0.5, "q75": 0.75, "q95": 0.95}


def k_grid(n: int) -> list[int]:
    """1, 2, 4, ... up to n, and n itself where it is no power of two."""
    return sorted({*(1 << i for i in range(n.bit_length())), n} - {0})


def counts(correct: ArrayLike, samples: ArrayLike) -> tuple[IntArray, IntArray]:
    """Both as (P,) integers. ValueError unless 0 <= correct <= samples and samples >= 1."""
    c, n = np.broadcast_arrays(np.asarray(correct, np.int64), np.asarray(samples, np.int64))
    if np.any(n < 1) or np.any(c < 0) or np.any(c > n):
        raise ValueError(
            f"correct {c.tolist()} of samples {n.tolist()}: must be 0 <= correct <= samples, samples >= 1"
        )
    return c, n


def mean_at_n(correct: ArrayLike, samples: ArrayLike) -> FloatArray:
    """Solve rates c / n over all of a problem's samples, (P,); equal to pass@1."""
    c, n = counts(correct, samples)
    return c / n


def pass_at_k(correct: ArrayLike, samples: ArrayLike, k: int) -> FloatArray:
    """Unbiased pass@k = 1 - C(n-c, k) / C(n, k), (P,); NaN where n < k.

    Chen et al. 2021 (https://arxiv.org/abs/2107.03374), equation 1. The quotient is the product over j < k of
    (n-c-j) / (n-j): no factor leaves [0, 1], so nothing overflows and nothing cancels.
    """
    c, n = counts(correct, samples)
    none_right = np.ones(n.shape)
    for j in range(k):
        none_right *= np.maximum(n - c - j, 0) / np.maximum(n - j, 1)
    return np.where(n >= k, 1.0 - none_right, np.nan)


def best_at_k(correct: ArrayLike, samples: ArrayLike, k: int) -> FloatArray:
    """verl's best@k/mean = 1 - (1 - c/n)^k, (P,); NaN where n < k.

    verl (verl/trainer/ppo/metric_utils.py, bootstrap_metric) draws k of the n samples WITH replacement 1000 times and
    averages the maximum; this is that average's expectation, without its noise. It lies below pass@k for 1 < k: one
    right sample of 32 gives best@32 = 0.638 where pass@32 = 1. The paper's "Pass@32" is this one.
    """
    c, n = counts(correct, samples)
    return np.where(n >= k, 1.0 - (1.0 - c / n) ** k, np.nan)


def majority(votes: Sequence[int], right: Sequence[bool]) -> float:
    """maj@n of one problem from its groups of equal answers; 0 without votes.

    The share of the largest groups that are right: ties are averaged, as if broken by a fair coin.
    Samples without an answer do not vote.
    """
    return float(majority_of_draws(np.asarray([votes], np.int64), np.asarray(right, bool))[0])


def majority_of_draws(votes: IntArray, right: NDArray[np.bool_]) -> FloatArray:
    """`majority` of many ballots of one problem: votes (B, groups), right (groups,) -> (B,)."""
    if votes.shape[1] == 0:
        return np.zeros(len(votes))
    top = votes.max(axis=1, keepdims=True)
    tied = (votes == top) & (top > 0)
    return (tied & right).sum(axis=1) / np.maximum(tied.sum(axis=1), 1)


def length_quantiles(tokens: ArrayLike) -> dict[str, float] | None:
    """Mean, quantiles and maximum of response lengths in tokens; None without samples."""
    lengths = np.asarray(tokens, np.float64)
    if not lengths.size:
        return None
    quantiles = np.quantile(lengths, list(QUANTILES.values())).tolist()
    return {"mean": float(lengths.mean()), **dict(zip(QUANTILES, quantiles, strict=True)), "max": float(lengths.max())}


def rate(count: int, total: int) -> float | None:
    """count / total of the samples that exist; None without samples."""
    return count / total if total else None
