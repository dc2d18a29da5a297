"""Importance weights and their clips. Legend: (B, U) is (B, A) per token or (B, 1) per sequence; π_old samples."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

MAX_LOG_RATIO = 20.0
"""Bound of a |log-ratio| before exp, where w reaches e^20 ≈ 5e8; upstream's PPO loss has the same bound.

float32 overflows at e^88.7, and ρ/w, w² and their sums over a batch must stay finite as well. Only exp sees the
bound: log r enters the losses as it is, and the gradient passes, see `bounded_exp`.
"""


class Ratios(NamedTuple):
    """w, ρ and log r, (B, U); ρ is the number 1 where π_ref = π_old. Gradient flows through w and log r."""

    importance_weight: Tensor
    reference_weight: Tensor | float
    log_ref_ratio: Tensor


class ClipBounds(NamedTuple):
    """The values of w at which a clip acts: 1 - ε1, 1 + ε2 and c."""

    low: float
    high: float
    dual: float


class Clipped(NamedTuple):
    """Units at which each of the ClipBounds acts; (B, U), bool."""

    low: Tensor
    high: Tensor
    dual: Tensor


def ratios_of(log_weight: Tensor, log_reference_weight: Tensor | None) -> Ratios:
    """w, ρ and log r from log w and log ρ, (B, U); None stands for π_ref = π_old."""
    if log_reference_weight is None:
        return Ratios(bounded_exp(log_weight), 1.0, log_weight)
    weight, reference_weight = bounded_exp(log_weight), bounded_exp(log_reference_weight)
    return Ratios(weight, reference_weight, log_weight - log_reference_weight)


def bounded_exp(log_ratio: Tensor) -> Tensor:
    """exp of the log-ratio clamped to ±MAX_LOG_RATIO; the derivative is the value everywhere, also past the bound.

    A plain clamp has derivative 0 outside, so policies that drifted furthest would get no gradient of reward or KL.
    With this one the differentiable estimator has the score weight of `reinforce` at the bounded w.
    """
    constant = log_ratio.detach()
    return (log_ratio + (constant.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO) - constant)).exp()


@torch.no_grad()
def clip_gate(importance_weight: Tensor, advantages: Tensor, bounds: ClipBounds) -> Clipped:
    """Units whose gradient RPG-Style dual clip stops: A ≥ 0 and w ≥ 1 + ε2; A < 0 and w ≤ 1 - ε1, or w ≥ c.

    importance_weight, advantages (A, or Â, or anything of its sign) and results: (B, U). Algorithm 2 of
    https://arxiv.org/abs/2505.17508; the bounds themselves count as outside, as in its comparisons.
    """
    negative = advantages < 0
    return Clipped(
        low=negative & (importance_weight <= bounds.low),
        high=~negative & (importance_weight >= bounds.high),
        dual=negative & (importance_weight >= bounds.dual),
    )


@torch.no_grad()
def truncation(importance_weight: Tensor, advantages: Tensor, bounds: ClipBounds) -> Clipped:
    """Units whose w leaves its range: A ≥ 0 and w < 1 - ε1 or w > 1 + ε2; A < 0 and w > c.

    importance_weight, advantages (of the sign of Â) and results: (B, U). Equation 4.1 of
    https://arxiv.org/abs/2505.17508, which bounds w only by c if A is negative.
    """
    negative = advantages < 0
    return Clipped(
        low=~negative & (importance_weight < bounds.low),
        high=~negative & (importance_weight > bounds.high),
        dual=negative & (importance_weight > bounds.dual),
    )
