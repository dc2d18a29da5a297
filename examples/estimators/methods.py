"""The estimators that are measured: each turns log-probs of every reply into per-token losses.

A loss takes (log_probs, old, ref, advantages, mask), (Y, T) each but advantages (Y, 1), and returns (Y, T); the
expected gradient that counts is that of its sum over a reply. `target` is the divergence whose objective it is for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from rpg_openrlhf.objectives.losses import rpg_token_losses

Loss = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
CLIP = {"clip_eps_low": 0.2, "clip_eps_high": 0.28, "dual_clip": 10.0}  # the published bounds
GRPO_CLIP = {"clip_eps_low": 0.2, "clip_eps_high": 0.2, "dual_clip": 10.0}
LEVELS = {
    "token": {"importance_level": "token"},
    "prefix": {"importance_level": "prefix"},
    "prefix, reward of the reply": {"importance_level": "prefix", "reward_weight": "sequence"},
    "sequence": {"importance_level": "sequence"},
}


@dataclass(frozen=True)
class Method:
    """`kind` is RPG's divergence or the name of another estimator; level and clip are empty where there is none."""

    kind: str
    level: str
    clip: str
    target: str
    loss: Loss


def methods(beta: float) -> Iterator[Method]:
    """Every combination. Without a clip both gradient estimators have the same gradient, so that is there once."""
    for divergence in ("fkl", "ufkl", "rkl", "urkl"):
        for level, options in LEVELS.items():
            options = {"divergence": divergence, "beta": beta, **options}
            for clip, more in {
                "none": {"gradient_estimator": "reinforce"},
                "differentiable, gate": {"gradient_estimator": "differentiable", **CLIP},
                "reinforce, gate": {"gradient_estimator": "reinforce", **CLIP},
                "reinforce, truncate": {"gradient_estimator": "reinforce", "clip_mode": "truncate", **CLIP},
            }.items():
                yield Method(divergence, level, clip, divergence, _rpg(**options, **more))
    plain = {"divergence": "urkl", "gradient_estimator": "differentiable", "beta": 0.0}
    for name, term in _TERMS.items():
        target = "fkl" if name == "k3 as a loss" else "rkl"
        yield Method(name, "token", "none", target, _with_loss(term, beta, plain))
    for name in ("k1", "k3"):
        yield Method(
            f"{name} in the reward", "token", "none", "rkl", _in_reward(_TERMS[f"{name} as a loss"], beta, plain)
        )
    grpo = _with_loss(_TERMS["k3 as a loss"], beta, {**plain, **GRPO_CLIP})
    yield Method("GRPO as released", "token", "differentiable, gate", "rkl", grpo)
    cispo = {"gradient_estimator": "reinforce", "clip_mode": "truncate", "clip_eps_low": 1.0, "clip_eps_high": 0.28}
    yield Method("CISPO", "token", "reinforce, truncate", "none", _rpg("urkl", 0.0, dual_clip=1.28, **cispo))


_TERMS: dict[str, Callable[[Tensor], Tensor]] = {  # functions of log π_θ/π_ref
    "k1 as a loss": lambda x: x,
    "k2 as a loss": lambda x: x.square() / 2,
    "k3 as a loss": lambda x: torch.exp(-x) - 1 + x,
}


def _rpg(divergence: str, beta: float, **options) -> Loss:
    def loss(log_probs: Tensor, old: Tensor, ref: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
        return rpg_token_losses(
            log_probs, old, advantages, ref, mask, divergence=divergence, beta=beta, **options
        ).losses

    return loss


def _with_loss(term: Callable[[Tensor], Tensor], beta: float, options: dict) -> Loss:
    """PPO's surrogate and a KL term beside it, without the importance weight, as other programs have it."""
    surrogate = _rpg(**options)

    def loss(log_probs: Tensor, old: Tensor, ref: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
        penalty = torch.where(mask, term(log_probs - ref), 0.0)
        return surrogate(log_probs, old, ref, advantages, mask) + beta * penalty

    return loss


def _in_reward(term: Callable[[Tensor], Tensor], beta: float, options: dict) -> Loss:
    """The KL taken off the reward at sampling time: a token's advantage loses the terms from it to the end."""
    surrogate = _rpg(**options)

    def loss(log_probs: Tensor, old: Tensor, ref: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
        cost = torch.where(mask, term(old - ref), 0.0)
        to_go = cost.flip(-1).cumsum(-1).flip(-1)
        return surrogate(log_probs, old, ref, advantages - beta * to_go, mask)

    return loss
