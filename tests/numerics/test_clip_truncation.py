"""clip_mode truncate: the loss of Equation 4.1 with Remark F.2 of arXiv 2505.17508, region by region; float64."""

import math
from itertools import product

import pytest
import torch

from rpg_openrlhf.objectives.losses import rpg_token_losses
from tests.numerics.test_exact_gradient import SCORE_WEIGHTS, gradients

LOW, HIGH, DUAL = 0.8, 1.28, 3.0
BOUNDS = {"clip_eps_low": 0.2, "clip_eps_high": 0.28, "dual_clip": DUAL}
OPTIONS = {"gradient_estimator": "reinforce", "clip_mode": "truncate"}


def bounded_weight(w: float, sign: float) -> tuple[float, str | None]:
    """Equation 4.1: w in [1 - ε1, 1 + ε2] for a regularized advantage from 0 up, at most c for one below 0."""
    if sign >= 0:
        return min(max(w, LOW), HIGH), "low" if w < LOW else "high" if w > HIGH else None
    return min(w, DUAL), "dual" if w > DUAL else None


@pytest.mark.parametrize("divergence", SCORE_WEIGHTS)
def test_every_region_has_the_bounded_weight_and_keeps_its_gradient(divergence):
    beta, log_rho, seen = 0.15, -0.2, set()
    for w, advantage in product((0.3, 0.79, 0.81, 1.0, 1.27, 1.29, 2.9, 3.1, 40.0), (2.0, 0.5, -0.5, -2.0)):
        rho = math.exp(log_rho)
        sign = advantage + beta * SCORE_WEIGHTS[divergence](w, rho) / w
        bounded, region = bounded_weight(w, sign)
        expected = -(bounded * advantage + beta * SCORE_WEIGHTS[divergence](bounded, rho))
        actual = gradients(
            [[math.log(w)]], [[advantage]], [[log_rho]], divergence=divergence, beta=beta, **OPTIONS, **BOUNDS
        )
        assert actual.item() == pytest.approx(expected, rel=1e-12), (w, advantage)
        assert actual.item() != 0
        seen.add((sign >= 0, region))
    assert seen == {(True, None), (True, "low"), (True, "high"), (False, None), (False, "dual")}


@pytest.mark.parametrize("reference", ["old", "other"])
def test_a_bound_takes_the_place_of_a_weight_past_the_largest_exponent(reference):
    """log w = -60: exp is bounded at e^-20, and the bound must replace the 60 in Â's logarithm all the same."""
    log_rho = [[-0.3]] if reference == "other" else [[0.0]]
    expected = -(LOW * 1.0 - 0.01 * LOW * (math.log(LOW) - log_rho[0][0]))
    actual = gradients([[-60.0]], [[1.0]], log_rho, divergence="urkl", beta=0.01, **OPTIONS, **BOUNDS)
    assert actual.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("level", ["token", "sequence", "prefix"])
def test_inside_the_bounds_it_is_the_gate(level):
    generator = torch.Generator().manual_seed(0)
    log_weight = (torch.rand(50, 3, generator=generator) * 0.12 - 0.06).tolist()
    advantages = torch.randn(50, 1, generator=generator).tolist()
    options = {"divergence": "urkl", "beta": 0.1, "importance_level": level, "gradient_estimator": "reinforce"}
    gate, truncated = (
        gradients(log_weight, advantages, **options, **BOUNDS, clip_mode=m) for m in ("gate", "truncate")
    )
    torch.testing.assert_close(gate, truncated, rtol=0, atol=0)


@pytest.mark.parametrize("reward_weight", ["token", "sequence"])
@pytest.mark.parametrize("divergence", SCORE_WEIGHTS)
def test_a_bound_leaves_the_kl_of_prefixes_alone(divergence, reward_weight):
    """The gradient is that of the bounded reward part plus that of the KL without a bound."""
    generator = torch.Generator().manual_seed(1)
    log_weight, log_rho = (torch.randn(40, 3, generator=generator).double().tolist() for _ in range(2))
    level = {"divergence": divergence, "importance_level": "prefix", "reward_weight": reward_weight}
    rewards = [[1000.0]] * 40  # which decides the sign that the bounds depend on
    none = [[0.0]] * 40
    whole = gradients(log_weight, rewards, log_rho, **level, beta=0.1, **OPTIONS, **BOUNDS)
    reward = gradients(log_weight, rewards, log_rho, **level, beta=0.0, **OPTIONS, **BOUNDS)
    kl = gradients(log_weight, none, log_rho, **level, beta=0.1, gradient_estimator="reinforce")
    torch.testing.assert_close(whole, reward + kl, rtol=1e-12, atol=1e-9)
    unbounded = gradients(log_weight, rewards, log_rho, **level, beta=0.0, gradient_estimator="reinforce")
    assert (reward != unbounded).any()


def test_statistics_count_where_a_bound_acts():
    log_probs = torch.tensor([[0.5, 2.0, 5.0, 1.0]], dtype=torch.float64).log()
    zeros = torch.zeros_like(log_probs)
    for advantage, expected in (
        (1.0, [[1, 0, 0, 0], [0, 1, 1, 0], [0] * 4]),
        (-1.0, [[0] * 4, [0] * 4, [0, 0, 1, 0]]),
    ):
        stats = rpg_token_losses(
            log_probs, zeros, zeros + advantage, divergence="rkl", beta=0.0, **OPTIONS, **BOUNDS
        ).stats
        assert [stats[f"gated_{name}"][0].tolist() for name in ("low", "high", "dual")] == expected


def test_it_needs_the_reinforce_estimator():
    ones = torch.ones(1, 1)
    with pytest.raises(ValueError, match="clip_mode truncate needs gradient_estimator reinforce"):
        rpg_token_losses(
            ones, ones, ones, divergence="rkl", gradient_estimator="differentiable", beta=0.0, clip_mode="truncate"
        )
