"""Per-token losses of RPG (arXiv 2505.17508): importance weights, the dual-clip gate, two gradient estimators.

Legend: B sequences, A action tokens. A unit of importance weighting is a token or a whole sequence: (B, U) has U = A
for `importance_level` token and U = 1 for sequence. Samples come from π_old; divergences.py names the ratios.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from rpg_openrlhf.divergences import DIVERGENCES, Divergence

GRADIENT_ESTIMATORS = ("differentiable", "reinforce")
IMPORTANCE_LEVELS = ("token", "sequence")

MAX_LOG_RATIO = 20.0
"""Bound of a |log-ratio| before exp, where w reaches e^20 ≈ 5e8; upstream's PPO loss has the same bound.

float32 overflows at e^88.7, and ρ/w, w² and their sums over a batch must stay finite as well. Only exp sees the
bound: log r enters the losses as it is, and the gradient passes, see `_bounded_exp`.
"""


class TokenLosses(NamedTuple):
    """What `rpg_token_losses` returns; (B, A) each, zero where masked."""

    losses: Tensor
    """Carries the gradient; the sum over a sequence is that sequence's loss."""
    stats: dict[str, Tensor]
    """Detached, float; `rpg_token_losses` lists them."""


class Ratios(NamedTuple):
    """w, ρ and log r, (B, U); ρ is the number 1 where π_ref = π_old. Gradient flows through w and log r."""

    importance_weight: Tensor
    reference_weight: Tensor | float
    log_ref_ratio: Tensor


class ClipBounds(NamedTuple):
    """The values of w at which the gradient stops: 1 - ε1, 1 + ε2 and c."""

    low: float
    high: float
    dual: float


class ClipGate(NamedTuple):
    """Where the gradient is stopped by each of the ClipBounds; (B, U), bool."""

    low: Tensor
    high: Tensor
    dual: Tensor


def rpg_token_losses(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    ref_log_probs: Tensor | None = None,
    action_mask: Tensor | None = None,
    *,
    divergence: str,
    gradient_estimator: str,
    beta: float,
    clip_eps_low: float | None = None,
    clip_eps_high: float | None = None,
    dual_clip: float | None = None,
    importance_level: str = "token",
) -> TokenLosses:
    """Losses whose expected gradient over π_old is -∇J, J(θ) = E_θ[R] - β·D, wherever no clip bound acts.

    `unit_losses` has the formulas (Tables 1, 2, 4 and Algorithm 2 of https://arxiv.org/abs/2505.17508).
    log_probs, old_log_probs, ref_log_probs, action_mask: (B, A); advantages: (B, A) or (B, 1). ref_log_probs None
    means π_ref = π_old, a bound that is None never acts. Where action_mask is 0 any input may hold NaN or Inf.
    Computed in float32, or in float64 where an input is.

    At level sequence w and r are products over the sequence's valid tokens, A is the mean of their advantages (the
    sequence's own, if they are equal), and every valid token carries an equal share of the sequence's loss.

    stats: importance_weight, regularized_advantage and gated_low, gated_high, gated_dual (0 or 1), each unit's on all
    its tokens; kl_old_k1, kl_old_k3, kl_ref_k1, kl_ref_k3 of `_kl_stats`, of single tokens at either level.
    """
    _check_options(divergence, gradient_estimator, importance_level, beta, clip_eps_low, clip_eps_high, dual_clip)
    _check_shapes(log_probs, old_log_probs, advantages, ref_log_probs, action_mask)
    mask = torch.ones_like(log_probs, dtype=torch.bool) if action_mask is None else action_mask.bool()
    log_probs = _valid(log_probs, mask)
    # Constants of the objective, also where a caller passes the live log_probs as those of π_old.
    old_log_probs, advantages = _valid(old_log_probs.detach(), mask), _valid(advantages.detach(), mask)
    log_weight = log_probs - old_log_probs
    log_reference_weight = None if ref_log_probs is None else _valid(ref_log_probs.detach(), mask) - old_log_probs
    ratios = _ratios(log_weight, log_reference_weight)
    kl_stats = _kl_stats(ratios, log_weight)
    length: Tensor | None = None
    if importance_level == "sequence":
        length = mask.sum(-1, keepdim=True).clamp(min=1)
        if log_reference_weight is not None:
            log_reference_weight = log_reference_weight.sum(-1, keepdim=True)
        ratios = _ratios(log_weight.sum(-1, keepdim=True), log_reference_weight)
        log_probs, advantages = log_probs.sum(-1, keepdim=True), advantages.sum(-1, keepdim=True) / length

    bounds = ClipBounds(
        low=0.0 if clip_eps_low is None else 1 - clip_eps_low,  # w > 0: never reached
        high=math.inf if clip_eps_high is None else 1 + clip_eps_high,
        dual=math.inf if dual_clip is None else dual_clip,
    )
    terms = DIVERGENCES[divergence]
    losses, gate, regularized_advantages = unit_losses(
        ratios, log_probs, advantages, terms, gradient_estimator, beta, bounds
    )
    stats = {
        "importance_weight": torch.where(mask, ratios.importance_weight.detach(), 0.0),
        **{f"gated_{bound}": (mask & gated).to(losses.dtype) for bound, gated in gate._asdict().items()},
        **kl_stats,
        "regularized_advantage": torch.where(mask, regularized_advantages, 0.0),
    }
    # A masked token would otherwise be charged the divergence's constant, such as β for UFKL.
    return TokenLosses(torch.where(mask, losses if length is None else losses / length, 0.0), stats)


def unit_losses(
    ratios: Ratios,
    log_probs: Tensor,
    advantages: Tensor,
    divergence: Divergence,
    gradient_estimator: str,
    beta: float,
    bounds: ClipBounds,
) -> tuple[Tensor, ClipGate, Tensor]:
    """Loss, gate and regularized advantage Â = A + β·score_weight / w of every unit; all (B, U).

    differentiable   β·surrogate - clip(w)·A   Tables 1 and 4: autograd through w; the clip is on the reward part alone
    reinforce        -SG(gate·w·Â)·log π_θ     Table 2, Algorithm 2: SG is stop-gradient; the clip is on Â
    of https://arxiv.org/abs/2505.17508, here for any π_ref.
    """
    weight = ratios.importance_weight
    # SG: were Â differentiated too, its derivative would add to the objective's (-β for RKL).
    with torch.no_grad():
        weighted_advantages = weight * advantages + beta * divergence.score_weight(*ratios)
        regularized_advantages = weighted_advantages / weight
    if gradient_estimator == "reinforce":
        gate = clip_gate(weight, weighted_advantages, bounds)  # w > 0, so w·Â has the sign of Â
        coefficient = weighted_advantages.masked_fill(gate.low | gate.high | gate.dual, 0.0)
        return -coefficient * log_probs, gate, regularized_advantages
    gate = clip_gate(weight, advantages, bounds)
    # PPO's value at a shut gate: the bound itself in place of w, a constant and so without gradient.
    for gated, bound in zip(gate, bounds, strict=True):
        weight = weight.masked_fill(gated, bound)
    return beta * divergence.surrogate(*ratios, log_probs) - weight * advantages, gate, regularized_advantages


@torch.no_grad()
def clip_gate(importance_weight: Tensor, advantages: Tensor, bounds: ClipBounds) -> ClipGate:
    """Where RPG-Style dual clip stops the gradient: A ≥ 0 and w ≥ 1 + ε2; A < 0 and w ≤ 1 - ε1, or w ≥ c.

    importance_weight, advantages (A, or Â, or anything of its sign) and results: (B, U). Algorithm 2 of
    https://arxiv.org/abs/2505.17508; the bounds themselves are outside, as its comparisons have it.
    """
    negative = advantages < 0
    return ClipGate(
        low=negative & (importance_weight <= bounds.low),
        high=~negative & (importance_weight >= bounds.high),
        dual=negative & (importance_weight >= bounds.dual),
    )


def summarize_stats(stats: dict[str, Tensor], action_mask: Tensor | None = None) -> dict[str, Tensor]:
    """One batch's means over valid tokens, extremes of w and effective sample size (Σw)² / (n Σw²), 0-d each.

    stats: of `rpg_token_losses`; action_mask: (B, A). The effective sample size is a share: 1 when all weights are
    equal, 1/n when one token of n carries the batch. At level sequence a sequence counts once per token. Without any
    valid token everything is 0.
    """
    weight = stats["importance_weight"]
    mask = torch.ones_like(weight, dtype=torch.bool) if action_mask is None else action_mask.bool()
    count = mask.sum().clamp(min=1)
    # Masked entries are 0 in every statistic, so plain sums and the maximum are those of the valid tokens.
    summary = {name: values.sum() / count for name, values in stats.items()}
    mean, mean_square = summary.pop("importance_weight"), weight.square().sum() / count
    largest = weight.max()
    return {
        "importance_weight_mean": mean,
        "importance_weight_max": largest,
        "importance_weight_min": torch.where(mask, weight, largest).min(),
        "effective_sample_size": mean.square() / mean_square.clamp(min=torch.finfo(weight.dtype).tiny),
        **summary,
    }


def _valid(tensor: Tensor, mask: Tensor) -> Tensor:
    """The tensor in at least float32, zero where masked: (B, A), also from (B, 1).

    Zeroed before any arithmetic, since a later mask stops a NaN's value but not 0 · NaN in the backward pass.
    """
    return torch.where(mask, tensor.to(torch.promote_types(tensor.dtype, torch.float32)), 0.0)


def _ratios(log_weight: Tensor, log_reference_weight: Tensor | None) -> Ratios:
    """w, ρ and log r from log w and log ρ, (B, U); None stands for π_ref = π_old."""
    if log_reference_weight is None:
        return Ratios(_bounded_exp(log_weight), 1.0, log_weight)
    weight, reference_weight = _bounded_exp(log_weight), _bounded_exp(log_reference_weight)
    return Ratios(weight, reference_weight, log_weight - log_reference_weight)


def _bounded_exp(log_ratio: Tensor) -> Tensor:
    """exp of the log-ratio clamped to ±MAX_LOG_RATIO, whose derivative is its value everywhere, past the bound too.

    A plain clamp has derivative 0 outside: the policies that have drifted furthest would feel neither reward nor KL.
    Passing it through, the differentiable estimator keeps the score weight of `reinforce`, of the bounded w.
    """
    constant = log_ratio.detach()
    return (log_ratio + (constant.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO) - constant)).exp()


@torch.no_grad()
def _kl_stats(ratios: Ratios, log_weight: Tensor) -> dict[str, Tensor]:
    """Unbiased estimates of KL(π_θ‖π_old) and KL(π_θ‖π_ref) at each token, from samples of π_old; (B, A) each.

    k1 = w·l and k3 = w·(e^-l - 1 + l) ≥ 0, with l = log w or log r: the usual estimators, which expect samples of
    π_θ, times w because these come from π_old. For an unnormalized π_ref, k3 is unbiased for UKL(π_θ‖π_ref).
    Earlier tokens are as π_old sampled them, at level sequence too: a product of weights would drown the statistic.
    """
    weight = ratios.importance_weight
    stats: dict[str, Tensor] = {}
    for policy, log_ratio in (("old", log_weight), ("ref", ratios.log_ref_ratio)):
        if policy == "ref" and log_ratio is log_weight:  # π_ref = π_old
            return stats | {"kl_ref_k1": stats["kl_old_k1"], "kl_ref_k3": stats["kl_old_k3"]}
        stats[f"kl_{policy}_k1"] = weight * log_ratio
        # expm1 because k3 is quadratic near l = 0, where e^-l - 1 has lost its digits.
        inverse_ratio = torch.expm1((-log_ratio).clamp(max=MAX_LOG_RATIO))
        stats[f"kl_{policy}_k3"] = weight * (inverse_ratio + log_ratio)
    return stats


def _check_options(
    divergence: str,
    gradient_estimator: str,
    importance_level: str,
    beta: float,
    clip_eps_low: float | None,
    clip_eps_high: float | None,
    dual_clip: float | None,
) -> None:
    for name, value, choices in (
        ("divergence", divergence, tuple(DIVERGENCES)),
        ("gradient_estimator", gradient_estimator, GRADIENT_ESTIMATORS),
        ("importance_level", importance_level, IMPORTANCE_LEVELS),
    ):
        if value not in choices:
            raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
    if not 0 <= beta < math.inf:  # written so that NaN fails, here and below
        raise ValueError(f"beta must be finite and at least 0, got {beta!r}")
    for name, value in (("clip_eps_low", clip_eps_low), ("clip_eps_high", clip_eps_high)):
        if value is not None and not 0 < value < 1:
            raise ValueError(f"{name} must lie between 0 and 1, or be None, got {value!r}")
    if dual_clip is not None and not 1 < dual_clip < math.inf:
        raise ValueError(f"dual_clip must be finite and greater than 1, or None, got {dual_clip!r}")


def _check_shapes(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    ref_log_probs: Tensor | None,
    action_mask: Tensor | None,
) -> None:
    shape = log_probs.shape
    if len(shape) != 2:
        raise ValueError(f"log_probs must have shape (B, A), got {tuple(shape)}")
    for name, tensor in (
        ("old_log_probs", old_log_probs),
        ("ref_log_probs", ref_log_probs),
        ("action_mask", action_mask),
    ):
        if tensor is not None and tensor.shape != shape:
            raise ValueError(f"{name} must have the shape of log_probs {tuple(shape)}, got {tuple(tensor.shape)}")
    if advantages.shape not in (shape, (shape[0], 1)):
        raise ValueError(
            f"advantages must have shape {tuple(shape)} or {(shape[0], 1)}, got {tuple(advantages.shape)}"
        )
