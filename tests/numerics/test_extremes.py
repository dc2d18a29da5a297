"""Gradients where numbers are bad: padding full of NaN, log-ratios of ±80, bfloat16, rows without a valid token."""

import math
from itertools import product

import pytest
import torch

from rpg_openrlhf.objectives.divergences import DIVERGENCES
from rpg_openrlhf.objectives.importance_weights import MAX_LOG_RATIO
from rpg_openrlhf.objectives.losses import (
    GRADIENT_ESTIMATORS,
    IMPORTANCE_LEVELS,
    rpg_token_losses,
)
from tests.summary import summarize_stats

torch.set_num_threads(1)

CHOICES = [
    {"divergence": divergence, "gradient_estimator": estimator, "importance_level": level}
    for divergence, estimator, level in product(DIVERGENCES, GRADIENT_ESTIMATORS, IMPORTANCE_LEVELS)
]
CLIP = {"clip_eps_low": 0.2, "clip_eps_high": 0.28, "dual_clip": 10.0}

every_choice = pytest.mark.parametrize("choice", CHOICES, ids=lambda choice: "-".join(choice.values()))
with_and_without_clip = pytest.mark.parametrize("clip", [{}, CLIP], ids=["unclipped", "clipped"])


def batch(rows=4, columns=6, spread=0.3, dtype=torch.float32):
    """log_probs, old_log_probs, advantages, ref_log_probs, action_mask; (B, A), the mask with holes and tails."""
    generator = torch.Generator().manual_seed(rows * columns)
    old = -torch.rand(rows, columns, generator=generator) * 3
    log_probs, ref = (old + spread * torch.randn(rows, columns, generator=generator) for _ in range(2))
    advantages = torch.randn(rows, 1, generator=generator).expand(rows, columns)
    mask = torch.arange(columns) < torch.arange(2, rows + 2).unsqueeze(-1)
    mask[0, 0] = False
    return *(x.to(dtype) for x in (log_probs, old, advantages, ref)), mask


def losses_and_gradient(log_probs, *inputs, **options):
    log_probs = log_probs.clone().requires_grad_()
    result = rpg_token_losses(log_probs, *inputs, **options)
    return result, torch.autograd.grad(result.losses.sum(), log_probs)[0]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("with_reference", [True, False])
@with_and_without_clip
@every_choice
def test_masked_positions_reach_neither_loss_nor_gradient(choice, clip, with_reference, bad):
    *inputs, mask = batch()
    inputs[3] = inputs[3] if with_reference else None
    clean, clean_gradient = losses_and_gradient(*inputs, mask, beta=0.1, **choice, **clip)
    spoiled = [x if x is None else x.masked_fill(~mask, bad) for x in inputs]
    # Anomaly mode raises where any backward step makes a NaN, even one that a later step would hide.
    with torch.autograd.detect_anomaly(check_nan=True):
        result, gradient = losses_and_gradient(*spoiled, mask, beta=0.1, **choice, **clip)
    assert torch.equal(result.losses, clean.losses)
    assert torch.equal(gradient, clean_gradient)
    assert (gradient[~mask] == 0).all()
    assert (result.losses[~mask] == 0).all()
    assert gradient[mask].abs().sum() > 0
    for name, values in result.stats.items():
        assert torch.equal(values, clean.stats[name]), name
        assert (values[~mask] == 0).all(), name


@pytest.mark.parametrize("bad", [0.0, math.nan])
@every_choice
def test_rows_without_a_valid_token_are_silent(choice, bad):
    *inputs, mask = batch()
    inputs[2] = inputs[2][:, :1].clone()  # advantages of (B, 1)
    mask[1] = False
    for x in inputs:
        x[1] = bad
    result, gradient = losses_and_gradient(*inputs, mask, beta=0.1, **choice)
    assert (gradient[1] == 0).all()
    assert (result.losses[1] == 0).all()
    assert gradient.isfinite().all()
    assert gradient[mask].abs().min() > 0

    result, gradient = losses_and_gradient(*inputs, torch.zeros_like(mask), beta=0.1, **choice)
    assert (gradient == 0).all()
    assert all(value == 0 for value in summarize_stats(result.stats, torch.zeros_like(mask)).values())


@pytest.mark.parametrize("log_ratio", [80.0, -80.0])
@pytest.mark.parametrize("log_rho", [None, 0.0, 80.0, -80.0])
@pytest.mark.parametrize("advantage", [1.0, -1.0])
@with_and_without_clip
@every_choice
def test_log_ratios_of_80_in_bf16_are_finite(choice, clip, advantage, log_rho, log_ratio):
    shape, dtype = (2, 3), torch.bfloat16
    old = torch.full(shape, -90.0, dtype=dtype)
    ref = None if log_rho is None else old + log_rho
    advantages = torch.full(shape, advantage, dtype=dtype)
    result, gradient = losses_and_gradient(old + log_ratio, old, advantages, ref, beta=0.1, **choice, **clip)
    assert gradient.dtype == dtype
    assert gradient.isfinite().all()
    assert result.losses.isfinite().all()
    assert all(values.isfinite().all() for values in result.stats.values())
    assert all(value.isfinite() for value in summarize_stats(result.stats).values())


@pytest.mark.parametrize("excess", [-1e-3, 0.0, 1e-3, 60.0])
@pytest.mark.parametrize("sign", [1, -1])
@every_choice
def test_gradient_passes_the_bound_of_the_log_ratio(choice, sign, excess):
    """Past MAX_LOG_RATIO the score weight is that of the bounded w and the true log r; below it nothing is bounded."""
    beta, advantage, x = 0.5, -0.3, sign * (MAX_LOG_RATIO + excess)
    log_probs = torch.tensor([[x]], dtype=torch.float64)
    advantages = torch.tensor([[advantage]], dtype=torch.float64)
    result, gradient = losses_and_gradient(log_probs, torch.zeros_like(log_probs), advantages, beta=beta, **choice)
    w = math.exp(max(-MAX_LOG_RATIO, min(MAX_LOG_RATIO, x)))
    c = {"fkl": 1.0, "ufkl": 1 - w, "rkl": -w * (x + 1), "urkl": -w * x}[choice["divergence"]]
    assert result.stats["importance_weight"].item() == pytest.approx(w, rel=1e-9)
    assert gradient.item() == pytest.approx(-(w * advantage + beta * c), rel=1e-9)
    assert gradient.item() != 0


@pytest.mark.parametrize("sign", [1, -1])
def test_reference_weight_is_bounded(sign):
    for excess in (-1e-3, 0.0, 1e-3, 60.0):
        old = torch.zeros(1, 1, dtype=torch.float64)
        ref = old + sign * (MAX_LOG_RATIO + excess)
        options = {"divergence": "fkl", "gradient_estimator": "differentiable", "beta": 1.0}
        _, gradient = losses_and_gradient(old, old, old, ref, **options)
        assert gradient.item() == pytest.approx(-math.exp(sign * (MAX_LOG_RATIO + min(excess, 0.0))), rel=1e-9)


@with_and_without_clip
@every_choice
def test_bf16_inputs_are_computed_in_float32(choice, clip):
    """Against float64 on the same rounded inputs, the losses have float32's error; only the gradient is rounded."""
    *inputs, mask = batch(dtype=torch.bfloat16)
    narrow, gradient = losses_and_gradient(*inputs, mask, beta=0.1, **choice, **clip)
    wide, exact = losses_and_gradient(*(x.double() for x in inputs), mask, beta=0.1, **choice, **clip)
    assert narrow.losses.dtype == torch.float32
    torch.testing.assert_close(narrow.losses, wide.losses.float(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient.double(), exact, rtol=2**-8, atol=1e-6)
    for name, values in narrow.stats.items():
        torch.testing.assert_close(values, wide.stats[name].float(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("dtype", "computed"),
    [(torch.bfloat16, torch.float32), (torch.float16, torch.float32), (torch.float32,) * 2, (torch.float64,) * 2],
)
@every_choice
def test_dtype_is_at_least_float32(choice, dtype, computed):
    *inputs, mask = batch(dtype=dtype)
    for action_mask in (mask, mask.long(), mask.float(), None):
        result, gradient = losses_and_gradient(*inputs, action_mask, beta=0.1, **choice, **CLIP)
        assert result.losses.dtype == computed
        assert {values.dtype for values in result.stats.values()} == {computed}
        assert gradient.dtype == dtype
        assert gradient.abs().sum() > 0


def test_k3_keeps_its_digits_near_zero():
    log_probs = torch.tensor([[-1.0 + 2**-13]])
    options = {"divergence": "urkl", "gradient_estimator": "reinforce", "beta": 0.1}
    stats = rpg_token_losses(log_probs, torch.tensor([[-1.0]]), torch.zeros(1, 1), **options).stats
    assert stats["kl_old_k3"].item() == pytest.approx(2**-27, rel=1e-2)


@with_and_without_clip
@every_choice
def test_nothing_waits_for_the_device(choice, clip):
    """A meta tensor has no values, so any .item(), branch or index that would synchronize a GPU raises."""
    *inputs, mask = (x.to("meta") for x in batch())
    result, gradient = losses_and_gradient(*inputs, mask, beta=0.1, **choice, **clip)
    assert gradient.is_meta
    assert all(value.is_meta for value in summarize_stats(result.stats, mask).values())
