"""The KL of whole replies, token by token: the importance weight of a token is that of its prefix.

Legend: B sequences, A action tokens; w_t, ρ_t and log r_t are the ratios of token t (divergences.py), and
w_{1:t} = Π_{s≤t} w_s, ρ_{1:t} likewise. Masked tokens have log-ratio 0, so that they change no product and no sum.

Sequence weights w_{1:T} give the same expected gradient with more variance: a later token's weight is 1 on average,
and the KL of an earlier token does not depend on a later one. π_ref must be normalized at every token.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rpg_openrlhf.objectives.divergences import Divergence
from rpg_openrlhf.objectives.importance_weights import bounded_exp


class PrefixDivergence(NamedTuple):
    """A Divergence in prefix weights, with the call signatures of its two terms (the weight arguments are ignored).

    The part of token t's term that contains log r depends on all tokens up to t, so each of them gets its gradient.
    Hence its score weight at t is the sum over s ≥ t (the KL to go). The part without log r belongs to token t alone.
    """

    divergence: Divergence
    log_weight: Tensor  # log w_t, (B, A); carries the gradient
    log_reference_weight: Tensor  # log ρ_t, (B, A)

    def score_weight(self, _weight: Tensor, _reference_weight: Tensor | float, log_ref_ratio: Tensor) -> Tensor:
        """C_t / β, (B, A).

        FKL ρ_{1:t}; UFKL ρ_{1:t} - w_{1:t}; URKL -Σ_{s≥t} w_{1:s} log r_s; RKL -w_{1:t} - Σ_{s≥t} w_{1:s} log r_s.
        """
        weight, reference_weight = _product(self.log_weight), _product(self.log_reference_weight)
        zero = torch.zeros_like(weight)
        own = self.divergence.score_weight(weight, reference_weight, zero)
        cost = self.divergence.score_weight(weight, reference_weight, log_ref_ratio) - own
        return own + (zero + cost).flip(-1).cumsum(-1).flip(-1)

    def surrogate(
        self, _weight: Tensor, _reference_weight: Tensor | float, log_ref_ratio: Tensor, log_probs: Tensor
    ) -> Tensor:
        """Terms whose sum over a reply has the gradient of D, (B, A)."""
        weight, reference_weight = _product(self.log_weight), _product(self.log_reference_weight)
        zero = torch.zeros_like(weight)
        cost = self.divergence.surrogate(weight, reference_weight, log_ref_ratio, log_probs)
        cost = cost - self.divergence.surrogate(weight, reference_weight, zero, log_probs)
        # Without log r only token t's own factor may carry gradient: the earlier factors have terms of their own.
        own_weight = weight.detach() * (self.log_weight - self.log_weight.detach()).exp()
        return cost + self.divergence.surrogate(own_weight, reference_weight, zero, log_probs)


def reply_weight(log_weight: Tensor) -> Tensor:
    """w_{1:T} at every token, (B, A), where only token t's own factor carries gradient: d/d log π_θ(t) is w_{1:T}."""
    reply_weight = bounded_exp(log_weight.detach().sum(-1, keepdim=True))
    return reply_weight * (log_weight - log_weight.detach()).exp()


def _product(log_weight: Tensor) -> Tensor:
    return bounded_exp(log_weight.cumsum(-1))
