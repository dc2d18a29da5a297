"""Two 95 % intervals for every score: over other problems of the same kind, and over another run on the same problems.

The first supports claims about models; the second says how far a rerun may differ. Shape: (P,) is problems.
Random draws are seeded and inputs are sorted first, so the same counts give the same digits in any order.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from evaluation.scores.metrics import FloatArray, IntArray, majority_of_draws

LEVEL = 0.95
TAILS = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
RESAMPLES = 9999
RUNS = 2000
VOTE_RUNS = 1000
EQUAL = 1e-12  # values closer than this differ only by rounding
CELLS = 2_000_000  # of a resampled block: 16 MB
SEED = 20210707

Statistic = Callable[[IntArray, IntArray], FloatArray]
Bounds = tuple[float, float]


@dataclass(frozen=True)
class Interval:
    """`method` is "BCa", "percentile" or "Wilson"."""

    low: float
    high: float
    method: str


@dataclass(frozen=True)
class Ballot:
    """One problem's groups of equal answers, whether each is right, and the samples that gave no answer."""

    votes: tuple[int, ...]
    right: tuple[bool, ...]
    silent: int


def wilson(fraction: float, trials: float) -> Bounds:
    """Wilson's score interval of a proportion; `trials` need not be an integer. The width is never zero."""
    z2 = float(stats.norm.ppf(TAILS[1])) ** 2
    centre = (fraction + z2 / (2 * trials)) / (1 + z2 / trials)
    half = np.sqrt(z2 * fraction * (1 - fraction) / trials + (z2 / (2 * trials)) ** 2) / (1 + z2 / trials)
    # At 0 and 1 the bound is exact on paper and an ulp off in floats.
    return (0.0 if fraction == 0 else float(centre - half)), (1.0 if fraction == 1 else float(centre + half))


def over_problems(values: FloatArray) -> Interval:
    """Cluster bootstrap of the mean, BCa, or percentile if that is undefined; values (P,) in [0, 1], without NaN.

    Whole problems are drawn with replacement, each with the value that its samples gave. Samples are not drawn again
    within a problem: its value already contains its samples' noise, so the spread of values over problems is the sum
    of both variances. Drawing samples too would count their noise twice.
    """
    values = np.sort(values)
    if values[-1] - values[0] < EQUAL:
        return Interval(*wilson(values[0], len(values)), "Wilson")
    return bootstrap([values], lambda x, axis: x.mean(axis=axis))


def expanded_level(size: int) -> float:
    """Nominal level at which a bootstrap of `size` problems covers 95 %; 0.962 at 30, 0.951 at 272.

    Resampling divides the variance by P instead of P-1 and has normal tails instead of Student's (Hesterberg 2015,
    https://arxiv.org/abs/1411.5279, section 4.1.3).
    """
    return 1 - 2 * float(stats.norm.sf(np.sqrt(size / (size - 1)) * stats.t.ppf(TAILS[1], size - 1)))


def bootstrap(data: Sequence[FloatArray], statistic: Callable[..., FloatArray], method: str = "BCa") -> Interval:
    """scipy's interval of a statistic; each array of `data`, (P_i,), is resampled on its own.

    Statistics are rounded to 12 decimals: BCa counts the resamples equal to the observed statistic. There are many,
    since scores lie on a grid, and the last bit of a sum must not separate them.
    """

    def rounded(*arrays: FloatArray, axis: int) -> FloatArray:
        return np.round(statistic(*arrays, axis=axis), 12)

    batch = max(1, CELLS // sum(map(len, data)))
    level = expanded_level(min(map(len, data)))
    options = {"n_resamples": RESAMPLES, "batch": batch, "confidence_level": level}
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        result = stats.bootstrap(data, rounded, method=method, rng=np.random.default_rng(SEED), **options)
    bounds = result.confidence_interval
    if not np.isfinite(bounds).all():
        method = "percentile"
        bounds = np.quantile(result.bootstrap_distribution, ((1 - level) / 2, (1 + level) / 2))
    return Interval(float(bounds[0]), float(bounds[1]), method)


def over_runs(correct: IntArray, samples: IntArray, statistic: Statistic) -> Bounds | None:
    """Interval for the expected score of runs on these problems; correct, samples (P,). None if every n is 1.

    The number of right samples of each problem is drawn again, binomial at Jeffreys' rate (c+1/2)/(n+1). At the plain
    rate c/n a problem with c = 0 would never be solved, and the interval of pass@n would cover only 50 to 75 %. The
    mean of the draws is subtracted, because drawing with replacement turns pass@k into best@k, which is lower. The
    interval is too wide if most problems are never or always solved, and a little too narrow for pass@k near 1.
    """
    if samples.max(initial=0) < 2:
        return None
    order = np.lexsort((correct, samples))
    correct, samples = correct[order], samples[order]
    rates = (correct + 0.5) / (samples + 1)
    draws = np.random.default_rng(SEED).binomial(samples, rates, size=(RUNS, len(samples)))
    offsets = np.zeros(RUNS)
    for n in np.unique(samples):
        possible = np.arange(n + 1)
        table = statistic(possible, np.full(n + 1, n))
        columns = np.flatnonzero(samples == n)
        chance = stats.binom.pmf(possible, n, rates[columns, None])
        offsets += table[draws[:, columns]].sum(axis=1) - (chance @ table).sum()
    return _around(float(statistic(correct, samples).mean()), offsets / len(samples))


def votes_over_runs(ballots: Sequence[Ballot]) -> Bounds | None:
    """`over_runs` for maj@n: a problem's samples, also those without an answer, are drawn again from its groups."""
    sizes = [sum(ballot.votes) + ballot.silent for ballot in ballots]
    if max(sizes, default=0) < 2:
        return None
    rng = np.random.default_rng(SEED)
    total, offsets = 0.0, np.zeros(VOTE_RUNS)
    for ballot in sorted(ballots, key=lambda b: (b.votes, b.right, b.silent)):
        right = np.asarray(ballot.right, bool)
        total += float(majority_of_draws(np.asarray([ballot.votes], np.int64), right)[0])
        if right.any() and (ballot.silent or not right.all()):  # no draw can change the others
            shares = np.asarray([*ballot.votes, ballot.silent], np.float64)
            drawn = rng.multinomial(int(shares.sum()), shares / shares.sum(), size=VOTE_RUNS)
            outcome = majority_of_draws(drawn[:, :-1], right)
            offsets += outcome - outcome.mean()
    if not offsets.any():
        # Every problem is unanimous. Half of the offsets are minus the width of Wilson's interval at 0 and half plus
        # it, so that the quantiles in _around are -width and +width.
        offsets = np.resize([-1.0, 1.0], VOTE_RUNS) * wilson(0.0, sum(sizes))[1] * len(ballots)
    return _around(total / len(ballots), offsets / len(ballots))


def _around(value: float, offsets: FloatArray) -> Bounds:
    """The middle 95 % of value + offsets, within [0, 1] and including the value itself."""
    low, high = value + np.quantile(offsets, TAILS)
    return float(np.clip(low, 0.0, value)), float(np.clip(high, value, 1.0))


def holm(ps: Sequence[float | None]) -> list[float | None]:
    """p-values with Holm's correction for their number (1979); None stays None and is not counted."""
    known = sorted((p, index) for index, p in enumerate(ps) if p is not None)
    corrected: list[float | None] = [None] * len(ps)
    highest = 0.0
    for rank, (p, index) in enumerate(known):
        highest = max(highest, min(1.0, p * (len(known) - rank)))
        corrected[index] = highest
    return corrected
