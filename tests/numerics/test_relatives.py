"""Published losses that are special cases of RPG's, or are not: gradients compared sample by sample; float64."""

import torch

from rpg_openrlhf.objectives.losses import rpg_token_losses
from tests.numerics.test_exact_gradient import gradients


def draws(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """log w, advantages, log ρ; (8, 5) each."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(8, 5, generator=generator, dtype=torch.float64) for _ in range(3))


def gradient_of(loss, log_weight: torch.Tensor) -> torch.Tensor:
    """d Σ loss(log w) / d log π_θ, as log w = log π_θ - log π_old."""
    leaf = log_weight.clone().requires_grad_()
    return torch.autograd.grad(loss(leaf).sum(), leaf)[0]


def test_cispo_is_reinforce_without_kl_truncated():
    """arXiv 2506.13585: -SG(min(w, 1 + ε))·A·log π_θ for both signs of A; its own runs have no lower bound."""
    log_weight, advantages, _ = draws()
    epsilon = 0.28
    cispo = gradient_of(lambda x: -x.detach().exp().clamp(max=1 + epsilon) * advantages * x, log_weight)
    options = {"divergence": "urkl", "gradient_estimator": "reinforce", "beta": 0.0, "clip_mode": "truncate"}
    bounds = {"clip_eps_low": 1.0, "clip_eps_high": epsilon, "dual_clip": 1 + epsilon}
    torch.testing.assert_close(gradients(log_weight.tolist(), advantages.tolist(), **options, **bounds), cispo)


def k3(log_r: torch.Tensor) -> torch.Tensor:
    return torch.exp(-log_r) + log_r - 1


def test_grpo_with_an_unbiased_kl_is_urkl_per_token():
    """TRL's and DeepSeek-V3.2's correction weights k3 by w and differentiates both."""
    log_weight, advantages, log_rho = draws()
    corrected = gradient_of(lambda x: x.exp() * (0.3 * k3(x - log_rho) - advantages), log_weight)
    for estimator in ("differentiable", "reinforce"):
        options = {"divergence": "urkl", "gradient_estimator": estimator, "beta": 0.3}
        ours = gradients(log_weight.tolist(), advantages.tolist(), log_rho.tolist(), **options)
        torch.testing.assert_close(ours, corrected)


def test_a_detached_importance_weight_on_k3_is_ufkl():
    log_weight, advantages, log_rho = draws()
    detached = gradient_of(lambda x: 0.3 * x.detach().exp() * k3(x - log_rho) - x.exp() * advantages, log_weight)
    options = {"divergence": "ufkl", "gradient_estimator": "reinforce", "beta": 0.3}
    ours = gradients(log_weight.tolist(), advantages.tolist(), log_rho.tolist(), **options)
    torch.testing.assert_close(ours, detached)


def test_gspo_is_not_the_sequence_level():
    """GSPO (arXiv 2507.18071) has the geometric mean of a sequence's weights, RPG's sequence level their product."""
    log_weight, advantages, _ = draws()
    advantages = advantages[:, :1]
    gspo = gradient_of(lambda x: -x.mean(-1, keepdim=True).exp() * advantages, log_weight)
    options = {"divergence": "urkl", "gradient_estimator": "reinforce", "beta": 0.0, "importance_level": "sequence"}
    ours = gradients(log_weight.tolist(), advantages.tolist(), **options)
    product = gradient_of(lambda x: -x.sum(-1, keepdim=True).exp() * advantages, log_weight)
    torch.testing.assert_close(ours, product)
    assert (ours - gspo).abs().max() > 0.1


def test_prefix_weights_are_less_noisy_than_sequence_weights():
    """The same expectation (test_exact_gradient.py), smaller variance: 4,000 replies of 8 tokens near π_old."""
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(4000, 8, generator=generator, dtype=torch.float64) * 0.3
    log_weight = noise - 0.045  # E[w] = 1
    zeros = torch.zeros_like(log_weight)
    spread = {}
    for level in ("prefix", "sequence"):
        leaf = log_weight.clone().requires_grad_()
        losses = rpg_token_losses(
            leaf, zeros, zeros, divergence="ufkl", gradient_estimator="reinforce", beta=1.0, importance_level=level
        ).losses
        (gradient,) = torch.autograd.grad(losses.sum(), leaf)
        spread[level] = gradient.var(0).mean()
    assert spread["prefix"] < spread["sequence"]
