"""Invariants of the scores, the intervals and the paired comparison, on random counts."""

from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.scores import intervals, selection
from evaluation.scores.comparison import paired
from evaluation.scores.intervals import Ballot, over_problems, over_runs, votes_over_runs
from evaluation.scores.metrics import best_at_k, k_grid, majority, mean_at_n, pass_at_k
from evaluation.scores.scoring import all_scores, vote_score
from evaluation.scores.selection import last_and_best
from tests.evaluation import brute_force

light = settings(max_examples=50, deadline=None, derandomize=True)
problem = st.integers(1, 40).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
problems = st.lists(problem, min_size=1, max_size=8)
ballots = st.lists(
    st.builds(
        lambda groups, silent: Ballot(tuple(g[0] for g in groups), tuple(g[1] for g in groups), silent),
        st.lists(st.tuples(st.integers(1, 9), st.booleans()), min_size=1, max_size=5),
        st.integers(0, 5),
    ),
    min_size=1,
    max_size=6,
)


@pytest.fixture(autouse=True, scope="module")
def few_resamples():
    """The invariants do not depend on how many."""
    patch = pytest.MonkeyPatch()
    for name in ("RESAMPLES", "RUNS", "VOTE_RUNS"):
        patch.setattr(intervals, name, 199)
    patch.setattr(selection, "SPLITS", (40, 40))
    yield
    patch.undo()


def columns(pairs):
    table = np.asarray(pairs, np.int64)
    return table[:, 0], table[:, 1]


@light
@given(problem)
def test_pass_at_k_grows_from_the_mean_to_any_correct(pair):
    c, n = pair
    curve = [float(pass_at_k(c, n, k)) for k in range(1, n + 1)]
    assert curve[0] == pytest.approx(c / n, abs=1e-12)
    assert all(later >= earlier - 1e-12 for earlier, later in pairwise(curve))
    assert curve[-1] == float(c > 0)
    assert np.isnan(pass_at_k(c, n, n + 1))


@light
@given(problem)
def test_best_at_k_lies_between_the_mean_and_pass_at_k(pair):
    c, n = pair
    for k in range(1, n + 1):
        best = float(best_at_k(c, n, k))
        assert c / n - 1e-12 <= best <= float(pass_at_k(c, n, k)) + 1e-12
        assert (best == pytest.approx(float(pass_at_k(c, n, k)), abs=1e-12)) or (k > 1 and 0 < c < n)


@light
@given(st.lists(st.sampled_from(["7", "8", "9", None]), min_size=1, max_size=12), st.randoms())
def test_a_ballot_is_counted_by_group_in_any_order(answers, random):
    found = sorted({answer for answer in answers if answer})
    random.shuffle(found)
    counted = majority([answers.count(a) for a in found], [a == "7" for a in found])
    assert counted == pytest.approx(brute_force.majority(answers, "7"))


@light
@given(problems, st.randoms())
def test_the_order_of_problems_changes_no_digit(pairs, random):
    shuffled = list(pairs)
    random.shuffle(shuffled)
    (c, n), (other_c, other_n) = columns(pairs), columns(shuffled)
    assert over_problems(c / n) == over_problems(other_c / other_n)
    for statistic in (mean_at_n, partial(best_at_k, k=1)):
        assert over_runs(c, n, statistic) == over_runs(other_c, other_n, statistic)


@light
@given(ballots, st.randoms())
def test_the_order_of_ballots_changes_no_digit(found, random):
    shuffled = list(found)
    random.shuffle(shuffled)
    assert votes_over_runs(found) == votes_over_runs(shuffled)
    score = vote_score(found)
    assert score == vote_score(shuffled)
    assert 0 <= score["low"] <= score["value"] <= score["high"] <= 1


@light
@given(problems)
def test_every_score_has_a_place_inside_its_intervals(pairs):
    c, n = columns(pairs)
    found = [Ballot((int(a), int(b - a)), (True, False), 0) for a, b in pairs]
    scores = all_scores(c, c // 2, n, found, k_grid(32))
    assert scores["mean"]["value"] == pytest.approx(scores["pass@k"]["1"]["value"], abs=1e-12)
    for key in ("low", "high"):
        assert scores["mean"][key] == pytest.approx(scores["best@k"]["1"][key], abs=1e-9)
    for k, score in scores["pass@k"].items():
        assert score["problems"] == (n >= int(k)).sum() == scores["best@k"][k]["problems"] > 0
    for score in (scores["mean"], scores["strict"], scores["majority"], *scores["pass@k"].values()):
        assert 0 <= score["low"] <= score["value"] <= score["high"] <= 1
        assert score["low"] < score["high"], "never certain"
        if score["run_low"] is not None:
            assert 0 <= score["run_low"] <= score["value"] <= score["run_high"] <= 1


@light
@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=1, max_size=12))
def test_swapping_the_runs_negates_the_difference(pairs):
    a, b = np.asarray(pairs).T / 8
    forth, back = paired(a, b), paired(b, a)
    assert forth["difference"] == -back["difference"]
    assert forth["low"] == pytest.approx(-back["high"], abs=1e-12)
    assert forth["high"] == pytest.approx(-back["low"], abs=1e-12)
    assert forth["p"] == pytest.approx(back["p"], abs=1e-12)
    assert (forth["won"], forth["lost"], forth["tied"]) == (back["lost"], back["won"], back["tied"])
    assert forth["low"] <= forth["difference"] <= forth["high"]


@light
@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 6), st.integers(0, 10**6))
def test_best_is_never_below_last_nor_below_its_correction(evaluations, size, n, seed):
    rng = np.random.default_rng(seed)
    table = rng.integers(0, n + 1, (evaluations, size))
    found = last_and_best([(step, {str(i): (int(c), n) for i, c in enumerate(row)}) for step, row in enumerate(table)])
    assert found.best.value >= found.last.value
    assert found.corrected is None or found.corrected <= found.best.value
