"""Each step of the derivation in docs/mathematics.md, in numbers: all outcomes of a small policy, float64."""

import math
from itertools import product

import pytest
import torch

from rpg_openrlhf.objectives.divergences import DIVERGENCES
from tests import oracle

torch.set_num_threads(1)

PHI = {  # D = Σ φ(p, q) over outcomes, p = π_θ and q = π_ref; and the derivative by p as the document has it
    "fkl": (lambda p, q: q * (q / p).log(), lambda p, q: -q / p),
    "ufkl": (lambda p, q: q * (q / p).log() + p - q, lambda p, q: 1 - q / p),
    "rkl": (lambda p, q: p * (p / q).log(), lambda p, q: (p / q).log() + 1),
    "urkl": (lambda p, q: p * (p / q).log() + q - p, lambda p, q: (p / q).log()),
}


def policies(seed: int = 0, mass: float = 1.0):
    """π_θ, π_old, π_ref over 7 actions and ∇log π_θ by the logits: (7,), (7,), (7,), (7, 7)."""
    logits, old, ref = torch.randn(3, 7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    policy = logits.softmax(-1)
    return policy, old.softmax(-1), mass * ref.softmax(-1), torch.eye(7, dtype=torch.float64) - policy


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_phi_is_the_divergence_and_its_derivative_is_the_score_weight(divergence):
    policy, old, ref, _ = policies(mass=0.6)
    phi, derivative = PHI[divergence]
    assert phi(policy, ref).sum().item() == pytest.approx(
        oracle.divergence_by_definition(divergence, policy, ref).item(), rel=1e-12
    )
    leaf = policy.clone().requires_grad_()
    (slope,) = torch.autograd.grad(phi(leaf, ref).sum(), leaf)
    torch.testing.assert_close(slope, derivative(policy, ref))
    weight, rho = policy / old, ref / old
    score_weight = DIVERGENCES[divergence].score_weight(weight, rho, (weight / rho).log())
    torch.testing.assert_close(weight * slope, -score_weight)


def test_the_weight_turns_samples_of_the_old_policy_into_the_gradient():
    policy, old, _, score = policies()
    rewards = torch.arange(7.0, dtype=torch.float64)
    exact = (policy * rewards) @ score
    torch.testing.assert_close((old * (policy / old) * rewards) @ score, exact)
    torch.testing.assert_close((old * (policy / old) * (rewards - 2.5)) @ score, exact, msg="a baseline moves nothing")
    torch.testing.assert_close((old * (policy / old)) @ score, torch.zeros(7, dtype=torch.float64), atol=1e-15, rtol=0)


@pytest.mark.parametrize("group", [2, 3])
def test_the_mean_of_the_group_scales_the_gradient(group):
    """The sample is in its own mean: 1 - 1/G. Over all G-tuples of draws from a policy that is on-policy."""
    policy, _, _, score = policies()
    rewards = torch.randn(7, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    expected = torch.zeros(7, dtype=torch.float64)
    for draws in product(range(7), repeat=group):
        drawn = list(draws)
        advantages = rewards[drawn] - rewards[drawn].mean()
        expected += policy[drawn].prod() * (advantages @ score[drawn]) / group
    torch.testing.assert_close(expected, (1 - 1 / group) * ((policy * rewards) @ score))


def test_a_mass_other_than_one_needs_the_mass_term():
    """The unnormalized forms are never negative and 0 at the reference alone; the others are not."""
    for seed in range(20):
        policy, _, ref, _ = policies(seed, mass=0.6)
        for divergence in ("ufkl", "urkl"):
            assert oracle.divergence_by_definition(divergence, policy, ref) > 0
            assert oracle.divergence_by_definition(divergence, ref, ref) == pytest.approx(0, abs=1e-12)
    assert oracle.divergence_by_definition("fkl", ref / 0.6, ref) == pytest.approx(0.6 * math.log(0.6))
    assert oracle.divergence_by_definition("rkl", 0.5 * ref, ref) < 0


def test_k3_is_the_unnormalized_kl():
    def k3(ratio):
        return ratio - 1 - ratio.log()

    policy, old, ref, _ = policies(mass=0.6)
    weight = policy / old
    ufkl, urkl = (oracle.divergence_by_definition(name, policy, ref) for name in ("ufkl", "urkl"))
    torch.testing.assert_close((old * weight * k3(ref / policy)).sum(), urkl)
    torch.testing.assert_close((old * (ref / old) * k3(policy / ref)).sum(), ufkl)
    torch.testing.assert_close((old * k3(weight)).sum(), oracle.divergence_by_definition("ufkl", policy, old))


def test_near_the_reference_only_the_normalized_forms_are_noisy():
    """At π_θ = π_ref = π_old every score weight of theirs is ±β, although they average to nothing."""
    one = torch.ones(5, dtype=torch.float64)
    weights = {name: DIVERGENCES[name].score_weight(one, one, 0 * one) for name in DIVERGENCES}
    assert {name: value.unique().tolist() for name, value in weights.items()} == {
        "fkl": [1.0], "ufkl": [0.0], "rkl": [-1.0], "urkl": [0.0]
    }  # fmt: skip
