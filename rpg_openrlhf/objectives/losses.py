"""Per-token losses of RPG (arXiv 2505.17508): importance weights, the dual-clip gate, two gradient estimators.

Legend: B sequences, A action tokens. A unit of importance weighting is a token or a whole sequence: (B, U) has U = A
for `importance_level` token and U = 1 for sequence. Samples come from π_old; divergences.py names the ratios.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from rpg_openrlhf.objectives.divergences import DIVERGENCES, Divergence
from rpg_openrlhf.objectives.importance_weights import (
    MAX_LOG_RATIO,
    ClipBounds,
    Clipped,
    Ratios,
    clip_gate,
    ratios_of,
    truncation,
)
from rpg_openrlhf.objectives.prefix import PrefixDivergence, reply_weight

GRADIENT_ESTIMATORS = ("differentiable", "reinforce")
IMPORTANCE_LEVELS = ("token", "sequence", "prefix")
REWARD_WEIGHTS = ("token", "sequence")
CLIP_MODES = ("gate", "truncate")


class TokenLosses(NamedTuple):
    """Result of `rpg_token_losses`; (B, A) each, zero where masked."""

    losses: Tensor
    """Carries the gradient; the sum over a sequence is that sequence's loss."""
    stats: dict[str, Tensor]
    """Detached, float; `rpg_token_losses` lists them."""


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
    clip_mode: str = "gate",
    importance_level: str = "token",
    reward_weight: str = "token",
) -> TokenLosses:
    """Losses whose expected gradient over π_old is -∇J, J(θ) = E_θ[R] - β·D, wherever no clip bound acts.

    `unit_losses` has the formulas (Tables 1, 2, 4 and Algorithm 2 of https://arxiv.org/abs/2505.17508).
    log_probs, old_log_probs, ref_log_probs, action_mask: (B, A); advantages: (B, A) or (B, 1). ref_log_probs None
    means π_ref = π_old, a bound that is None never acts. Where action_mask is 0 any input may hold NaN or Inf.
    Computed in float32, or in float64 where an input is.

    At level sequence w and r are products over the sequence's valid tokens, A is the mean of their advantages (the
    sequence's own, if they are equal), and every valid token carries an equal share of the sequence's loss.

    At level prefix the KL is that of whole replies in prefix weights (`PrefixDivergence`), and the reward of a token
    has the weight `reward_weight`: w_t, or the reply's w_{1:T}, with which the whole gradient is exact. The bounds
    act on that weight; the KL's own weights have none. The sum of a reply's token losses is the reply's loss.

    clip_mode gate stops the gradient outside the bounds. clip_mode truncate, for the reinforce estimator only, puts
    the bound in the place of w and keeps the gradient (`truncated_coefficient`).

    stats: importance_weight, regularized_advantage and gated_low, gated_high, gated_dual (1 where that bound acts),
    a unit's value on all its tokens; kl_old_k1, kl_old_k3, kl_ref_k1, kl_ref_k3 of `_kl_stats`, of single tokens at
    any level.
    """
    _check_options(divergence, gradient_estimator, importance_level, reward_weight, clip_mode, beta)
    _check_bounds(clip_eps_low, clip_eps_high, dual_clip)
    _check_shapes(log_probs, old_log_probs, advantages, ref_log_probs, action_mask)
    mask = torch.ones_like(log_probs, dtype=torch.bool) if action_mask is None else action_mask.bool()
    log_probs = _valid(log_probs, mask)
    # Constants of the objective, also if a caller passes the live log_probs as those of π_old.
    old_log_probs, advantages = _valid(old_log_probs.detach(), mask), _valid(advantages.detach(), mask)
    log_weight = log_probs - old_log_probs
    log_reference_weight = None if ref_log_probs is None else _valid(ref_log_probs.detach(), mask) - old_log_probs
    ratios = ratios_of(log_weight, log_reference_weight)
    kl_stats = _kl_stats(ratios, log_weight)
    terms: Divergence | PrefixDivergence = DIVERGENCES[divergence]
    length: Tensor | None = None
    if importance_level == "sequence":
        length = mask.sum(-1, keepdim=True).clamp(min=1)
        if log_reference_weight is not None:
            log_reference_weight = log_reference_weight.sum(-1, keepdim=True)
        ratios = ratios_of(log_weight.sum(-1, keepdim=True), log_reference_weight)
        log_probs, advantages = log_probs.sum(-1, keepdim=True), advantages.sum(-1, keepdim=True) / length

    if importance_level == "prefix":
        log_rho = torch.zeros_like(log_weight) if log_reference_weight is None else log_reference_weight
        terms = PrefixDivergence(terms, log_weight, log_rho)
        if reward_weight == "sequence":
            ratios = ratios._replace(importance_weight=reply_weight(log_weight))

    bounds = ClipBounds(
        low=0.0 if clip_eps_low is None else 1 - clip_eps_low,  # w > 0: never reached
        high=math.inf if clip_eps_high is None else 1 + clip_eps_high,
        dual=math.inf if dual_clip is None else dual_clip,
    )
    losses, clipped, regularized_advantages = unit_losses(
        ratios, log_probs, advantages, terms, gradient_estimator, beta, bounds, clip_mode
    )
    stats = {
        "importance_weight": torch.where(mask, ratios.importance_weight.detach(), 0.0),
        **{f"gated_{bound}": (mask & gated).to(losses.dtype) for bound, gated in clipped._asdict().items()},
        **kl_stats,
        "regularized_advantage": torch.where(mask, regularized_advantages, 0.0),
    }
    # A masked token would otherwise add the divergence's value at log-probs 0, such as β for UFKL.
    return TokenLosses(torch.where(mask, losses if length is None else losses / length, 0.0), stats)


def unit_losses(
    ratios: Ratios,
    log_probs: Tensor,
    advantages: Tensor,
    divergence: Divergence | PrefixDivergence,
    gradient_estimator: str,
    beta: float,
    bounds: ClipBounds,
    clip_mode: str = "gate",
) -> tuple[Tensor, Clipped, Tensor]:
    """Loss, clipped units and regularized advantage Â = A + β·score_weight / w of every unit; all (B, U).

    differentiable   β·surrogate - clip(w)·A   Tables 1 and 4: autograd through w; the clip is on the reward part only
    reinforce        -SG(gate·w·Â)·log π_θ     Table 2, Algorithm 2: SG is stop-gradient; the clip is on Â
    reinforce, truncate   -SG(w̄·A + β·score_weight(w̄))·log π_θ   Equation 4.1, Remark F.2: w̄ is the bounded w
    of https://arxiv.org/abs/2505.17508, here for any π_ref.
    """
    weight = ratios.importance_weight
    # SG: a gradient of Â would add to the gradient of the objective (-β for RKL).
    with torch.no_grad():
        weighted_advantages = weight * advantages + beta * divergence.score_weight(*ratios)
        regularized_advantages = weighted_advantages / weight
    if clip_mode == "truncate":
        clipped = truncation(weight, weighted_advantages, bounds)
        coefficient = truncated_coefficient(ratios, advantages, divergence, beta, clipped, bounds)
        return -coefficient * log_probs, clipped, regularized_advantages
    if gradient_estimator == "reinforce":
        clipped = clip_gate(weight, weighted_advantages, bounds)  # w > 0, so w·Â has the sign of Â
        coefficient = weighted_advantages.masked_fill(clipped.low | clipped.high | clipped.dual, 0.0)
        return -coefficient * log_probs, clipped, regularized_advantages
    clipped = clip_gate(weight, advantages, bounds)
    # PPO's value at a shut gate: the bound itself in place of w, a constant without gradient.
    for gated, bound in zip(clipped, bounds, strict=True):
        weight = weight.masked_fill(gated, bound)
    return beta * divergence.surrogate(*ratios, log_probs) - weight * advantages, clipped, regularized_advantages


@torch.no_grad()
def truncated_coefficient(
    ratios: Ratios,
    advantages: Tensor,
    divergence: Divergence | PrefixDivergence,
    beta: float,
    clipped: Clipped,
    bounds: ClipBounds,
) -> Tensor:
    """w̄·A + β·score_weight(w̄), (B, U): w̄ is w, or the bound that acts. Remark F.2 puts w̄ into log w as well.

    A PrefixDivergence keeps its own weights and its log r: a bound on one token's weight would enter other tokens' KL.
    """
    weight = ratios.importance_weight
    bounded = weight
    for acts, bound in zip(clipped, bounds, strict=True):
        bounded = bounded.masked_fill(acts, bound)
    log_ref_ratio = ratios.log_ref_ratio
    if isinstance(divergence, Divergence):
        log_rho = torch.as_tensor(ratios.reference_weight).log()
        log_ref_ratio = torch.where(clipped.low | clipped.high | clipped.dual, bounded.log() - log_rho, log_ref_ratio)
    return bounded * advantages + beta * divergence.score_weight(bounded, ratios.reference_weight, log_ref_ratio)


def _valid(tensor: Tensor, mask: Tensor) -> Tensor:
    """Convert to at least float32, and to zero where masked: (B, A), also from (B, 1).

    The zeros come before any arithmetic: a later mask stops a NaN's value, but not 0 · NaN in the backward pass.
    """
    return torch.where(mask, tensor.to(torch.promote_types(tensor.dtype, torch.float32)), 0.0)


@torch.no_grad()
def _kl_stats(ratios: Ratios, log_weight: Tensor) -> dict[str, Tensor]:
    """Unbiased estimates of KL(π_θ‖π_old) and KL(π_θ‖π_ref) at each token, from samples of π_old; (B, A) each.

    k1 = w·l and k3 = w·(e^-l - 1 + l) ≥ 0, with l = log w or log r: the usual estimators, which expect samples of
    π_θ, times w because these come from π_old. For an unnormalized π_ref, k3 is unbiased for UKL(π_θ‖π_ref).
    Only the token itself is weighted, at level sequence too, so prefixes are those of π_old: the variance of a product
    of weights would hide the statistic.
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
    divergence: str, gradient_estimator: str, importance_level: str, reward_weight: str, clip_mode: str, beta: float
) -> None:
    for name, value, choices in (
        ("divergence", divergence, tuple(DIVERGENCES)),
        ("gradient_estimator", gradient_estimator, GRADIENT_ESTIMATORS),
        ("importance_level", importance_level, IMPORTANCE_LEVELS),
        ("reward_weight", reward_weight, REWARD_WEIGHTS),
        ("clip_mode", clip_mode, CLIP_MODES),
    ):
        if value not in choices:
            raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
    if clip_mode == "truncate" and gradient_estimator != "reinforce":
        # The bound that replaces w has no gradient, so the differentiable loss would be gated there all the same.
        raise ValueError(f"clip_mode truncate needs gradient_estimator reinforce, got {gradient_estimator!r}")
    if importance_level == "prefix" and not DIVERGENCES[divergence].has_chain_rule:
        raise ValueError(f"importance_level prefix needs a divergence with a chain rule, got {divergence!r}")
    if reward_weight == "sequence" and importance_level != "prefix":
        raise ValueError(f"reward_weight sequence needs importance_level prefix, got {importance_level!r}")
    if not 0 <= beta < math.inf:  # written so that NaN fails, here and below
        raise ValueError(f"beta must be finite and at least 0, got {beta!r}")


def _check_bounds(clip_eps_low: float | None, clip_eps_high: float | None, dual_clip: float | None) -> None:
    for name, value in (("clip_eps_low", clip_eps_low), ("clip_eps_high", clip_eps_high)):
        if value is not None and not 0 < value <= 1:  # at 1 the low bound is 0, which w never reaches
            raise ValueError(f"{name} must be above 0 and at most 1, or be None, got {value!r}")
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
