"""What the documents say of KL terms as losses: which have which gradient, by enumeration."""

import re
from pathlib import Path

import pytest
import torch

from rpg_openrlhf.objectives.divergences import DIVERGENCES
from tests import kl_estimators as terms
from tests import oracle

torch.set_num_threads(1)

SEEDS = range(10)
EXACT, FLOAT32 = 1e-12, 1e-6  # OpenRLHF computes in float32


def distance(term, divergence: str, **setting) -> float:
    pairs = [terms.gradients(term, divergence, seed, **setting) for seed in SEEDS]
    return max(float((estimate - exact).abs().max()) for estimate, exact in pairs)


def size(term, **setting) -> float:
    return max(float(terms.gradients(term, "rkl", seed, **setting)[0].abs().max()) for seed in SEEDS)


@pytest.mark.parametrize("setting", terms.SETTINGS.values(), ids=terms.SETTINGS.keys())
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_ours_is_exact_between_any_three_policies(divergence, setting):
    assert distance(terms.here(divergence), divergence, **setting) < EXACT


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_the_releases_is_exact_for_the_paper_s_reference_alone(divergence):
    assert distance(terms.release(divergence), divergence, on_old=True) < EXACT
    assert distance(terms.release(divergence), divergence) > 0.05


def test_the_releases_reinforce_names_are_score_weights_and_not_surrogates():
    """Differentiated, FKL's is a constant, UFKL's averages to nothing; RKL's and URKL's are right in expectation."""
    assert size(terms.release_reinforce("fkl")) == 0
    assert size(terms.release_reinforce("ufkl"), on_old=True) < EXACT
    for divergence in ("rkl", "urkl"):
        assert distance(terms.release_reinforce(divergence), divergence, on_old=True) < EXACT


def test_k1_pushes_away_from_the_old_policy_whatever_the_reference():
    """Its gradient is E_old[∇log π_θ] = -∇KL(π_old‖π_θ), and nothing for π_θ = π_old."""
    term = terms.openrlhf("k1")
    assert size(term, on_policy=True) < FLOAT32
    assert distance(lambda new, old, ref: -term(new, old, ref), "fkl", on_old=True) < FLOAT32
    for seed in SEEDS:
        other = terms.gradients(lambda new, old, ref: term(new, old, ref - 0.5 * ref.square()), "rkl", seed)[0]
        assert torch.allclose(terms.gradients(term, "rkl", seed)[0], other, atol=FLOAT32)


@pytest.mark.parametrize(("estimator", "divergence", "other"), [("k2", "rkl", "fkl"), ("k3", "fkl", "rkl")])
def test_k2_is_the_reverse_and_k3_the_forward_kl_on_policy_alone(estimator, divergence, other):
    term = terms.openrlhf(estimator)
    assert distance(term, divergence, on_policy=True) < FLOAT32
    assert distance(term, other, on_policy=True) > 0.05
    assert distance(term, divergence) > 0.05
    assert distance(term, divergence, on_old=True) > 0.05


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_the_unbiased_gradient_is_the_reverse_kls(estimator):
    for setting in terms.SETTINGS.values():
        assert distance(terms.openrlhf(estimator, unbiased=True), "rkl", **setting) < FLOAT32


WEIGHTED = {  # (weight detached, k): the divergence
    "w k3": (False, lambda log_r: (-log_r).expm1() + log_r, "urkl"),
    "SG(w) k3": (True, lambda log_r: (-log_r).expm1() + log_r, "ufkl"),
    "SG(w) k2": (True, lambda log_r: log_r.square() / 2, "urkl"),
    "w k1": (False, lambda log_r: log_r, "rkl"),
}


@pytest.mark.parametrize("setting", terms.SETTINGS.values(), ids=terms.SETTINGS.keys())
@pytest.mark.parametrize(("detached", "estimator", "divergence"), WEIGHTED.values(), ids=WEIGHTED.keys())
def test_with_the_importance_weight(detached, estimator, divergence, setting):
    def term(new, old, ref):
        weight = (new - old).exp()
        return (weight.detach() if detached else weight) * estimator(new - ref)

    assert distance(term, divergence, **setting) < EXACT


def test_k1_in_the_reward_is_exact_for_the_policy_that_sampled_alone():
    """The penalty is a number by then, log π_old/π_ref; the importance weight goes on."""

    def term(new, old, ref):
        return (new - old).exp() * (old - ref)

    assert distance(term, "rkl", on_policy=True) < EXACT
    assert distance(term, "rkl") > 0.05


def test_values_of_the_estimators_on_policy():
    """k1 and k3 have the right mean, k2 has not: the value says nothing about the gradient."""
    problem = oracle.categorical(0, oracle.REFERENCES[1])
    new, ref = (problem.token_log_probs(each).squeeze(-1) for each in (problem.old_logits, problem.ref_logits))
    means = {name: (new.exp() * terms.openrlhf(name)(new, new, ref)).sum().item() for name in ("k1", "k2", "k3")}
    exact = (new.exp() * (new - ref)).sum().item()
    assert means["k1"] == pytest.approx(exact, rel=1e-5)
    assert means["k3"] == pytest.approx(exact, rel=1e-5)
    assert means["k2"] != pytest.approx(exact, rel=0.05)


def test_the_documents_table_is_what_is_measured():
    text = (Path(__file__).parents[2] / "docs" / "algorithms.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.+?) \| ([\d./ ]+) \| ([\d./ ]+) \| ([\d./ ]+) \|$", text.split("### Measured")[1], re.M)
    assert [row[0] for row in rows] == list(terms.ROWS)
    for name, *cells in rows:
        for cell, setting in zip(cells, terms.SETTINGS.values(), strict=True):
            measured = [terms.error(term, divergence, **setting) for term, divergence in terms.ROWS[name]]
            assert [float(word) for word in cell.split(" / ")] == pytest.approx(measured, abs=0.0051), name
