"""Means and differences over seeds against their textbook forms, and Holm's correction against its definition."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import stats

from evaluation.scores.intervals import holm
from evaluation.scores.seeds import difference, mean_of

SCORES = st.dictionaries(st.integers(1, 9), st.floats(0, 1), min_size=1)
PS = st.lists(st.one_of(st.none(), st.floats(0, 1)), max_size=8)


@given(SCORES)
def test_the_interval_is_students(scores):
    found = mean_of(scores)
    values = list(scores.values())
    assert (found.value, found.runs) == (pytest.approx(np.mean(values)), len(values))
    if len(set(values)) == 1:
        assert found.low is found.high is None
        return
    low, high = (f(found.value, t) for f, t in itertools.product([_end(values)], (-1, 1)))
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))


def _end(values):
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values))
    return lambda value, sign: value + sign * half


@given(SCORES, SCORES)
@example({1: 0.0, 2: 0.0}, {1: 0.0, 2: 5e-324})
def test_a_difference_is_paired_by_seed_and_turns_round(first, second):
    seeds = sorted(first.keys() & second.keys())
    if not seeds:
        with pytest.raises(ValueError, match="no seed in common"):
            difference(first, second)
        return
    found, back = difference(first, second), difference(second, first)
    assert found.seeds == len(seeds)
    assert found.value == pytest.approx(np.mean([first[s] - second[s] for s in seeds]))
    assert back.value == pytest.approx(-found.value)
    if found.p is not None:
        pair = [[scores[s] for s in seeds] for scores in (first, second)]
        assert found.p == pytest.approx(stats.ttest_rel(*pair).pvalue, rel=1e-6, abs=1e-12)
        assert back.p == pytest.approx(found.p)


@given(PS)
def test_holm_rejects_what_his_steps_reject(ps):
    found = holm(ps)
    known = [p for p in ps if p is not None]
    for level in (0.01, 0.05, 0.3):
        rejected = 0
        for rank, p in enumerate(sorted(known)):
            if p * (len(known) - rank) > level:
                break
            rejected += 1
        # Ties at the border are rejected together or not at all.
        assert sum(p is not None and p <= level for p in found) == rejected
    assert [p is None for p in ps] == [p is None for p in found]
    assert all(after >= before for before, after in zip(ps, found, strict=True) if before is not None)


def test_no_run_has_no_mean():
    with pytest.raises(ValueError, match="no run"):
        mean_of({})


def test_equal_differences_that_rounding_tells_apart_have_no_p():
    found = difference({1: 0.2, 2: 0.3}, {1: 0.1, 2: 0.2})
    assert found.value == pytest.approx(0.1)
    assert found.p is found.low is found.high is None
