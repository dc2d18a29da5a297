"""Intervals hold the truth as often as they say, and are never of zero width where something is left open."""

from functools import partial

import numpy as np
import pytest
from scipy import stats

from evaluation.scores import intervals
from evaluation.scores.intervals import Ballot, over_problems, over_runs, votes_over_runs, wilson
from evaluation.scores.metrics import mean_at_n, pass_at_k

MIXES = {"aime": (0.3, 0.9), "hard": (0.15, 3.0), "middle": (2.0, 2.0)}


def test_wilson_is_scipys():
    for c, n in ((0, 30), (1, 30), (15, 30), (29, 30), (30, 30)):
        theirs = stats.binomtest(c, n).proportion_ci(method="wilson")
        assert wilson(c / n, n) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


@pytest.mark.parametrize("value", [0.0, 1.0, 0.5])
def test_equal_values_are_no_certainty(value):
    """0 of 30 and 30 of 30: resampling problems would give [0, 0] and [1, 1]."""
    interval = over_problems(np.full(30, value))
    assert interval.method == "Wilson"
    assert interval.low <= value <= interval.high
    assert interval.high - interval.low > 0.1


def test_one_problem():
    interval = over_problems(np.asarray([0.25]))
    assert interval.method == "Wilson"
    assert interval.high - interval.low > 0.5


def test_bca_is_scipys_on_the_sorted_values():
    values = np.random.default_rng(1).beta(0.3, 0.9, 30)
    expected = stats.bootstrap(
        (np.sort(values),),
        np.mean,
        n_resamples=intervals.RESAMPLES,
        confidence_level=intervals.expanded_level(30),
        rng=np.random.default_rng(intervals.SEED),
    ).confidence_interval
    interval = over_problems(values)
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_the_level_makes_a_normal_bootstrap_students_interval():
    """z at the expanded level x the plug-in deviation = t at 95 % x the unbiased one."""
    values = np.random.default_rng(1).random(30)
    z = stats.norm.ppf((1 + intervals.expanded_level(30)) / 2)
    half = stats.t.interval(0.95, 29, scale=values.std(ddof=1) / np.sqrt(30))[1]
    assert z * values.std() / np.sqrt(30) == pytest.approx(half)
    assert intervals.expanded_level(10**6) == pytest.approx(0.95, abs=1e-5)


def test_undefined_bca_falls_back_to_percentiles():
    """A statistic that a resample moves but the jackknife does not has no acceleration."""
    values = np.append(np.linspace(0, 0.9, 28), [1.0, 1.0])
    interval = intervals.bootstrap([values], lambda x, axis: x.max(axis=axis))
    assert interval.method == "percentile"
    assert 0 <= interval.low < interval.high <= 1


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("n", [1, 32])
def test_coverage_over_problems(monkeypatch, mix, n):
    """Nominal 95 %, 30 problems: within what 400 repetitions and so few problems allow."""
    monkeypatch.setattr(intervals, "RESAMPLES", 999)
    rng = np.random.default_rng(7)
    a, b = MIXES[mix]
    values = rng.binomial(n, rng.beta(a, b, (400, 30))) / n
    found = map(over_problems, values)
    hits = np.mean([interval.low <= a / (a + b) <= interval.high for interval in found])
    assert 0.88 <= hits <= 0.995


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("k", [1, 8, 32])
def test_coverage_over_runs(monkeypatch, mix, k):
    """The plain c/n bootstrap covers 63 to 78 % at k = n: what never happened is not impossible."""
    monkeypatch.setattr(intervals, "RUNS", 500)
    rng = np.random.default_rng(8)
    samples, hits = np.full(30, 32), []
    for _ in range(100):
        rates = rng.beta(*MIXES[mix], 30)
        low, high = over_runs(rng.binomial(32, rates), samples, partial(pass_at_k, k=k))
        truth = (1 - (1 - rates) ** k).mean()
        # At the ceiling (middle, k = 32: 0.995) the interval is narrower than a point and may miss by less.
        slack = 0.01 if truth > 0.98 else 0
        hits.append(low - slack <= truth <= high)
    assert np.mean(hits) >= 0.9


def test_runs_scatter_less_than_problems():
    """30 problems, 32 samples: the facts' 0.9 points between runs, 7 to 8 from there being 30 problems."""
    rng = np.random.default_rng(2)
    rates = rng.beta(0.3, 0.9, 30)
    correct, samples = rng.binomial(32, rates), np.full(30, 32)
    low, high = over_runs(correct, samples, mean_at_n)
    assert low <= correct.mean() / 32 <= high
    sd = np.sqrt((rates * (1 - rates) / 32).sum()) / 30
    assert 0.8 < (high - low) / (2 * 1.96 * sd) < 1.4
    wide = over_problems(correct / 32)
    assert wide.high - wide.low > 3 * (high - low)


def test_one_sample_says_nothing_about_runs():
    assert over_runs(np.asarray([0, 1]), np.asarray([1, 1]), mean_at_n) is None
    assert votes_over_runs([Ballot((1,), (True,), 0), Ballot((), (), 1)]) is None


def test_nothing_right_is_not_nothing_possible():
    low, high = over_runs(np.zeros(30, int), np.full(30, 32), mean_at_n)
    assert low == 0 < high < 0.02
    low, high = votes_over_runs([Ballot((32,), (False,), 0)] * 30)
    assert low == 0 < high < 0.02


def test_a_close_vote_is_uncertain_and_a_clear_one_is_not():
    close = votes_over_runs([Ballot((11, 10, 5), (True, False, False), 6)] * 10)
    clear = votes_over_runs([Ballot((30, 2), (True, False), 0)] * 10)
    assert close[1] - close[0] > 0.2
    assert clear[1] - clear[0] < 0.02
    # All votes equal and right, but half the samples silent: only an empty ballot loses.
    assert votes_over_runs([Ballot((1,), (True,), 1)] * 10)[0] < 1


def test_unequal_samples_each_draw_their_own():
    correct, samples = np.asarray([1, 16, 0]), np.asarray([2, 32, 8])
    low, high = over_runs(correct, samples, mean_at_n)
    assert low <= (0.5 + 0.5 + 0) / 3 <= high
