"""Pairing, permutation p-values against all sign patterns, Holm, and the comparisons that mean nothing."""

import copy
import math
from fractions import Fraction

import numpy as np
import pytest

from evaluation.scores import comparison, intervals
from evaluation.scores.comparison import ComparisonError, compare, paired, sign_flip_p
from evaluation.scores.intervals import holm
from tests.evaluation import brute_force


def run(label, counts, n=8, **changes):
    """A results.json with what a comparison reads; `counts` = {benchmark: [correct, ...]}."""
    settings = {
        "label": label,
        "model": {"name": label, "hash": label},
        "sampling": {"temperature": 1.0, "top_p": 1.0, "top_k": -1, "max_tokens": 4096, "seed": 0, "dtype": "auto"},
        "prompt": {"style": "dapo", "chat_template": False, "system": None, "template": "{problem}"},
        "n": n,
        "benchmarks": {name: {"sha256": name} for name in counts},
    }
    for key, value in changes.items():
        group = next(g for g in ("sampling", "prompt") if key in settings[g])
        settings[group][key] = value
    benchmarks = {
        name: {
            "per_problem": {
                f"p{i:02}": {"n": n, "correct": c, "strict": c // 2, "majority": float(2 * c > n), "tokens": 9.0}
                for i, c in enumerate(found)
            }
        }
        for name, found in counts.items()
    }
    return {"settings": settings, "benchmarks": benchmarks, "grader": "g1"}


@pytest.mark.parametrize("seed", range(12))
def test_p_is_the_share_of_sign_patterns(seed):
    rng = np.random.default_rng(seed)
    eighths = rng.integers(-4, 7, size=rng.integers(1, 11))
    p = sign_flip_p(eighths / 8)
    assert p == pytest.approx(brute_force.sign_flip_p([Fraction(int(d), 8) for d in eighths]), abs=1e-12)


def test_many_problems_are_sampled_and_agree_with_the_normal_law():
    differences = np.random.default_rng(0).normal(0.05, 0.2, 100)
    p = sign_flip_p(differences)
    z = differences.sum() / np.sqrt((differences**2).sum())
    assert p == pytest.approx(math.erfc(abs(z) / math.sqrt(2)), abs=0.01)


def test_pairing_removes_the_problems_difficulty():
    rng = np.random.default_rng(3)
    easy = rng.beta(0.3, 0.9, 30)
    row = paired(np.clip(easy + rng.normal(0.03, 0.01, 30), 0, 1), easy)
    assert row["difference"] == pytest.approx(row["a"] - row["b"])
    assert row["low"] <= row["difference"] <= row["high"]
    assert row["se_paired"] < row["se_unpaired"] / 10
    assert row["p"] < 0.01
    assert row["won"] >= 25


def test_no_difference_is_not_certainty():
    values = np.full(30, 0.5)
    row = paired(values, values)
    assert row["p"] == 1
    assert row["low"] < 0 < row["high"]
    assert row["tied"] == 30


def test_rounding_makes_no_winner():
    """1/3 - 2/9 and 4/9 - 1/3 differ in their last bit; a constant gain is no spread to resample."""
    row = paired(np.asarray([1 / 3, 4 / 9, 0.1 + 0.2]), np.asarray([2 / 9, 1 / 3, 0.3]))
    assert (row["won"], row["tied"]) == (2, 1)
    constant = paired(np.asarray([1 / 3, 4 / 9] * 15), np.asarray([2 / 9, 1 / 3] * 15))
    assert constant["low"] < constant["difference"] - 0.05 < constant["difference"] + 0.05 < constant["high"]


def test_one_problem_has_no_standard_error():
    row = paired(np.asarray([1.0]), np.asarray([0.5]))
    assert row["se_paired"] is row["se_unpaired"] is None
    assert row["p"] == 1


def test_false_alarms_stay_at_five_percent(monkeypatch):
    """Two runs of one model, 30 problems of 8 samples: p < 0.05 and intervals without 0 about one time in twenty."""
    monkeypatch.setattr(intervals, "RESAMPLES", 999)
    monkeypatch.setattr(comparison, "RESAMPLES", 999)
    rng = np.random.default_rng(4)
    alarms, misses = 0, 0
    for _ in range(150):
        rates = rng.beta(0.3, 0.9, 30)
        row = paired(rng.binomial(8, rates) / 8, rng.binomial(8, rates) / 8)
        alarms += row["p"] < 0.05
        misses += not row["low"] <= 0 <= row["high"]
    assert alarms <= 15
    assert misses <= 18


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


def test_a_table_of_benchmarks():
    a, b = run("A", {"x": [8, 4, 2, 0], "y": [5, 5]}), run("B", {"y": [1, 2], "x": [7, 4, 0, 0], "z": [1]})
    table = compare(a, b)
    assert list(table["benchmarks"]) == ["x", "y"]
    x, y, pooled = table["benchmarks"]["x"], table["benchmarks"]["y"], table["pooled"]
    assert x["difference"] == pytest.approx(3 / 32)
    assert y["difference"] == pytest.approx(7 / 16)
    assert pooled["difference"] == pytest.approx((3 / 32 + 7 / 16) / 2)
    assert pooled["low"] <= pooled["difference"] <= pooled["high"]
    assert (x["won"], x["lost"], x["tied"]) == (2, 0, 2)
    assert x["p_holm"] >= x["p"]
    assert table["warnings"] == []
    assert compare(a, run("B", {"x": [8, 4, 2, 1]}))["pooled"] is None


def test_what_differs_is_said():
    a, b = run("A", {"x": [1, 2]}), run("B", {"x": [1, 2, 3]}, n=4, temperature=0.6, max_tokens=512, style="boxed")
    b["grader"] = "g2"
    text = "\n".join(compare(a, b)["warnings"])
    for part in ("temperature differs: 1.0 against 0.6", "max_tokens differs: 4096 against 512", "style differs"):
        assert part in text
    assert "on the 2 problems of both, of 2 and 3" in text
    assert "8 samples a problem against 4" in text
    assert "different graders" in text
    assert "same model with the same seed" in compare(a, copy.deepcopy(a))["warnings"][0]


def test_what_means_nothing_is_refused():
    a = run("A", {"x": [1, 2]})
    with pytest.raises(ComparisonError, match="share no benchmark: x against y"):
        compare(a, run("B", {"y": [1, 2]}))
    other = run("B", {"x": [1, 2]})
    other["settings"]["benchmarks"]["x"]["sha256"] = "another"
    with pytest.raises(ComparisonError, match="different files"):
        compare(a, other)
    apart = run("B", {"x": [1, 2]})
    found = apart["benchmarks"]["x"]["per_problem"]
    apart["benchmarks"]["x"]["per_problem"] = {f"q{i}": value for i, value in found.items()}
    with pytest.raises(ComparisonError, match="share no sampled problem"):
        compare(a, apart)
