"""The four KL divergences of RPG (arXiv 2505.17508), each with its surrogate and its score weight side by side.

Legend: every argument is (B, A) per token or (B, 1) per sequence, and the samples come from π_old.
    importance_weight  w = π_θ / π_old
    reference_weight   ρ = π_ref / π_old, a constant; the float 1.0 where π_ref = π_old
    log_ref_ratio      log r = log π_θ / π_ref = log w - log ρ
    log_probs          log π_θ of what was sampled

Torch is imported only for types, so that the command line can read the names without it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Divergence:
    """A divergence D whose gradient is estimated from samples of π_old; the caller multiplies by β.

    -∇D = -∇E_old[surrogate] = E_old[score_weight · ∇log π_θ], hence ∂ surrogate / ∂ log π_θ = -score_weight.
    Tables 1, 2 and 4 of https://arxiv.org/abs/2505.17508 are the case ρ = 1.
    """

    label: str
    """The name in the banner of a run."""
    definition: str
    """D as the paper defines it; ∫ is the sum over all actions, and π_ref of a U form may have any mass."""
    surrogate: Callable[[Tensor, Tensor | float, Tensor, Tensor], Tensor]
    """(importance_weight, reference_weight, log_ref_ratio, log_probs) to the term whose gradient is that of D."""
    score_weight: Callable[[Tensor, Tensor | float, Tensor], Tensor | float]
    """(importance_weight, reference_weight, log_ref_ratio) to C / β, so that w·Â = w·A + C."""
    has_chain_rule: bool = True
    """True if D of a reply is the sum of its tokens' D given their prefixes, as for a KL; importance level prefix."""


DIVERGENCES: dict[str, Divergence] = {
    "fkl": Divergence(
        label="FKL, KL(ref || policy)",
        definition="KL(π_ref‖π_θ) = E_ref[log π_ref/π_θ]",
        surrogate=lambda w, rho, log_r, log_probs: -rho * log_probs,
        score_weight=lambda w, rho, log_r: rho,
    ),
    "ufkl": Divergence(
        label="UFKL, unnormalized KL(ref || policy)",
        definition="UKL(π_ref‖π_θ) = E_ref[log π_ref/π_θ] + ∫(π_θ - π_ref)",
        surrogate=lambda w, rho, log_r, log_probs: w - rho * log_probs,
        score_weight=lambda w, rho, log_r: rho - w,
    ),
    "rkl": Divergence(
        label="RKL, KL(policy || ref)",
        definition="KL(π_θ‖π_ref) = E_θ[log π_θ/π_ref]",
        surrogate=lambda w, rho, log_r, log_probs: w * log_r,
        score_weight=lambda w, rho, log_r: -w * (log_r + 1),
    ),
    "urkl": Divergence(
        label="URKL, unnormalized KL(policy || ref)",
        definition="UKL(π_θ‖π_ref) = E_θ[log π_θ/π_ref] + ∫(π_ref - π_θ)",
        surrogate=lambda w, rho, log_r, log_probs: w * log_r - w,
        score_weight=lambda w, rho, log_r: -w * log_r,
    ),
}
