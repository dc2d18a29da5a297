"""The measured estimators: each turns log-probs of every reply into per-token losses.

A loss takes (log_probs, old, ref, advantages, mask), (Y, T) each but advantages (Y, 1), and returns (Y, T); the
measured gradient is that of its sum over a reply. `target` is the divergence in the objective that it is for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from rpg_openrlhf.objectives.losses import rpg_token_losses

Loss = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
Term = Callable[[Tensor], Tensor]  # a function of log π_θ/π_ref
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
    """`kind` is RPG's divergence or the name of another estimator; `clip` is "none" without one."""

    kind: str
    level: str
    clip: str
    target: str
    loss: Loss


def methods(beta: float) -> Iterator[Method]:
    """Every combination. Without a clip both gradient estimators have the same gradient, so only one is listed."""
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
    for name, term in TERMS.items():
        target = "fkl" if name == "k3" else "rkl"
        yield Method(f"{name} as a loss", "token", "none", target, _rpg(**plain, strength=beta, as_loss=term))
    for name in ("k1", "k3"):
        loss = _rpg(**plain, strength=beta, in_reward=TERMS[name])
        yield Method(f"{name} in the reward", "token", "none", "rkl", loss)
    grpo = _rpg(**plain, **GRPO_CLIP, strength=beta, as_loss=TERMS["k3"])
    yield Method("GRPO as released", "token", "differentiable, gate", "rkl", grpo)
    clip = {"clip_mode": "truncate", "clip_eps_low": 1.0, "clip_eps_high": 0.28, "dual_clip": 1.28}
    cispo = _rpg(**plain | {"gradient_estimator": "reinforce"}, **clip)
    yield Method("CISPO", "token", "reinforce, truncate", "none", cispo)


TERMS: dict[str, Term] = {
    "k1": lambda x: x,
    "k2": lambda x: x.square() / 2,
    "k3": lambda x: torch.exp(-x) - 1 + x,
}


def _rpg(strength: float = 0.0, as_loss: Term | None = None, in_reward: Term | None = None, **options) -> Loss:
    """RPG's loss with these options, and a KL term as in other programs, times strength.

    as_loss: added to the surrogate, without the importance weight. in_reward: subtracted from the reward, with the
    log-probs at sampling time, so that a token's advantage loses its own and all later terms.
    """

    def loss(log_probs: Tensor, old: Tensor, ref: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
        if in_reward is not None:
            cost = torch.where(mask, in_reward(old - ref), 0.0)
            advantages = advantages - strength * cost.flip(-1).cumsum(-1).flip(-1)
        losses = rpg_token_losses(log_probs, old, advantages, ref, mask, **options).losses
        if as_loss is not None:
            losses = losses + strength * torch.where(mask, as_loss(log_probs - ref), 0.0)
        return losses

    return loss
