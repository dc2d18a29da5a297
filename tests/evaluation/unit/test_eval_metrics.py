"""Closed forms against enumeration, verl's bootstrap among them."""

from itertools import product

import numpy as np
import pytest
from numpy.testing import assert_allclose

from evaluation.scores.metrics import (
    best_at_k,
    k_grid,
    length_quantiles,
    majority,
    majority_of_draws,
    mean_at_n,
    pass_at_k,
    rate,
)
from tests.evaluation import brute_force

CELLS = [(c, n) for n in range(1, 9) for c in range(n + 1)]


@pytest.mark.parametrize(("c", "n"), CELLS)
def test_pass_at_k_is_the_share_of_subsets(c, n):
    outcomes = brute_force.vector(c, n)
    assert mean_at_n(c, n) == pytest.approx(brute_force.mean(outcomes), abs=1e-15)
    for k in range(1, n + 1):
        assert pass_at_k(c, n, k) == pytest.approx(brute_force.pass_at_k(outcomes, k), abs=1e-14)


@pytest.mark.parametrize(("c", "n"), [(c, n) for c, n in CELLS if n <= 5])
def test_best_at_k_is_the_share_of_draws_with_replacement(c, n):
    for k in range(1, n + 1):
        expected = brute_force.best_at_k(brute_force.vector(c, n), k)
        assert best_at_k(c, n, k) == pytest.approx(expected, abs=1e-14)


@pytest.mark.parametrize(("c", "k"), [(1, 32), (1, 4), (3, 8), (16, 2), (0, 32), (32, 1)])
def test_best_at_k_is_what_verls_bootstrap_converges_to(c, k):
    simulated = brute_force.verl_best(brute_force.vector(c, 32), k, rounds=4000, seed=42)
    closed = float(best_at_k(c, 32, k))
    assert abs(simulated - closed) <= 4 * np.sqrt(closed * (1 - closed) / 4000)


def test_one_right_of_thirty_two():
    """The paper's Pass@32 gives 0.638 where any-correct gives 1."""
    assert pass_at_k(1, 32, 32) == 1.0
    assert best_at_k(1, 32, 32) == pytest.approx(0.638, abs=5e-4)


def test_unequal_samples_divide_by_their_own():
    """Regression of other harnesses: with 16 of 32 planned samples the mean halved."""
    assert_allclose(mean_at_n([8, 16], [16, 32]), [0.5, 0.5])
    assert_allclose(pass_at_k([8, 16], [16, 32], 1), [0.5, 0.5])
    assert_allclose(pass_at_k([8, 16], [16, 32], 32), [np.nan, 1.0])
    assert_allclose(best_at_k([8, 16], [16, 32], 32), [np.nan, 1.0])


def test_large_n_neither_overflows_nor_cancels():
    """C(4096, 2048) has 1232 digits; the answer for c = 1 is k / n exactly."""
    assert pass_at_k(1, 4096, 2048) == pytest.approx(0.5, rel=1e-11)
    assert pass_at_k(1, 10**6, 1) == pytest.approx(1e-6, rel=1e-9)


def test_majority_is_the_explicit_count():
    """All ballots of five samples over three answers and silence, ties and empty ballots among them."""
    for answers in product(["7", "8", "9", None], repeat=5):
        found = sorted({a for a in answers if a}, key=lambda a: -answers.count(a))
        groups = [answers.count(a) for a in found]
        expected = brute_force.majority(answers, "7")
        assert majority(groups, [a == "7" for a in found]) == pytest.approx(expected), answers


def test_majority_of_many_draws():
    draws = np.asarray([[2, 2, 0], [0, 0, 0], [1, 3, 0], [3, 1, 1], [2, 2, 2]])
    assert_allclose(majority_of_draws(draws, np.asarray([True, False, True])), [0.5, 0, 0, 1, 2 / 3])
    assert_allclose(majority_of_draws(np.zeros((3, 0), int), np.zeros(0, bool)), [0, 0, 0])


@pytest.mark.parametrize(
    ("n", "grid"), [(1, [1]), (2, [1, 2]), (32, [1, 2, 4, 8, 16, 32]), (6, [1, 2, 4, 6]), (0, [])]
)
def test_k_grid(n, grid):
    assert k_grid(n) == grid


@pytest.mark.parametrize(("c", "n"), [(2, 1), (-1, 4), (0, 0)])
def test_impossible_counts_are_refused(c, n):
    with pytest.raises(ValueError, match="correct <= samples"):
        mean_at_n(c, n)


def test_lengths_and_rates():
    lengths = length_quantiles(range(101))
    assert lengths == {"mean": 50, "q05": 5, "q25": 25, "median": 50, "q75": 75, "q95": 95, "max": 100}
    assert length_quantiles([]) is None
    assert rate(1, 4) == 0.25
    assert rate(0, 0) is None
