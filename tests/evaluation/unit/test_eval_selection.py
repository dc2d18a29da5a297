"""Best is too high by what was selected; the corrected estimate is not."""

from dataclasses import asdict

import numpy as np
import pytest

from evaluation.scores import selection
from evaluation.scores.selection import last_and_best
from tests.evaluation import brute_force


def counts(correct, n):
    return {f"p{i:03}": (int(c), n) for i, c in enumerate(correct)}


def unchanged(rng, rates, n, evaluations=41):
    return [(10 * i, counts(rng.binomial(n, rates), n)) for i in range(evaluations)]


@pytest.mark.parametrize(("problems", "n", "at_least"), [(30, 32, 0.012), (272, 1, 0.03)])
def test_forty_one_evaluations_of_an_unchanged_model(monkeypatch, problems, n, at_least):
    """The facts: about +1.8 points at AIME's 30 x 32, +4.7 at Minerva's 272 x 1; corrected, about none."""
    monkeypatch.setattr(selection, "SPLITS", (100, 100))
    rng = np.random.default_rng(0)
    best, corrected = [], []
    for _ in range(40):
        rates = rng.beta(0.3, 0.9, problems)
        found = last_and_best(unchanged(rng, rates, n))
        best.append(found.best.value - rates.mean())
        corrected.append(found.corrected - rates.mean())
    assert np.mean(best) > at_least
    assert abs(np.mean(corrected)) < 3 * np.std(corrected) / np.sqrt(40) < at_least


def test_corrected_is_the_mean_over_all_splits():
    """Against every split of every problem; the two directions are in the enumeration already."""
    series = [[[1, 1, 0, 0], [1, 0, 0, 0]], [[1, 0, 0, 0], [1, 1, 1, 0]]]
    rows = [(i, counts([sum(cell) for cell in evaluation], 4)) for i, evaluation in enumerate(series)]
    found = last_and_best(rows)
    assert found.method == "samples"
    assert found.corrected == pytest.approx(brute_force.corrected_best(series), abs=0.01)


def test_last_is_the_last_step_and_best_the_first_maximum():
    found = last_and_best([(20, counts([4, 4], 8)), (30, counts([2, 2], 8)), (10, counts([4, 4], 8))])
    assert (found.last.step, found.last.value) == (30, 0.25)
    assert (found.best.step, found.best.value) == (10, 0.5)
    assert found.evaluations == 3
    assert asdict(found)["best"] == {"step": 10, "value": 0.5}


def test_one_evaluation_selects_nothing():
    found = last_and_best([(10, counts([4, 2], 8))])
    assert found.last == found.best
    assert found.corrected == found.best.value
    assert found.method is None


def test_one_sample_of_one_problem_cannot_be_split():
    found = last_and_best([(1, counts([0], 1)), (2, counts([1], 1))])
    assert found.best.value == 1
    assert found.corrected is None


def test_a_dominating_checkpoint_needs_no_correction():
    found = last_and_best([(1, counts([1, 0], 8)), (2, counts([8, 7], 8))])
    assert found.corrected == pytest.approx(found.best.value)


def test_an_unfinished_checkpoint_is_left_out():
    """Two easy problems of thirty are no 100 %."""
    full, part = counts([3] * 30, 8), counts([8] * 2, 8)
    found = last_and_best([(10, full), (20, full), (30, part), (40, {})])
    assert found.evaluations == 2
    assert (found.last.step, found.best.value) == (20, 3 / 8)
    assert found.warnings == ("steps 30, 40 left out: they lack problems that others have",)


def test_unequal_samples_count_by_rate():
    found = last_and_best([(1, {"a": (1, 3), "b": (4, 5)}), (2, {"a": (3, 3), "b": (1, 2)})])
    assert found.last.value == pytest.approx((1 + 0.5) / 2)
    assert found.method == "samples"


@pytest.mark.parametrize("series", [[], [(1, {})]])
def test_nothing_to_choose_from(series):
    with pytest.raises(ValueError, match="no graded evaluation"):
        last_and_best(series)


def test_the_same_in_any_order():
    rng = np.random.default_rng(1)
    series = unchanged(rng, rng.random(30), 8, evaluations=5)
    shuffled = [(step, dict(reversed(found.items()))) for step, found in reversed(series)]
    assert last_and_best(series) == last_and_best(shuffled)
