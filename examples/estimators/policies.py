"""The policies that are measured: after warm-up, after RL, and as far from the one that sampled as asked for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import Qwen3ForCausalLM

from examples.estimators import tree as trees
from examples.estimators.measure import kl_of_replies
from rpg_openrlhf.objectives.losses import rpg_token_losses

SAMPLES = 64  # replies a prompt and step
TOLERANCE = 0.02  # of a KL that is searched for
MAX_STEPS = 200  # between two of them


def rl_step(
    model: Qwen3ForCausalLM,
    parameters: dict[str, Tensor],
    old: dict[str, Tensor],
    ref: dict[str, Tensor],
    optimizer: torch.optim.Optimizer,
    forest: Sequence[trees.Tree],
    generator: torch.Generator,
    beta: float,
) -> None:
    """One optimizer step of RPG-REINFORCE-URKL on replies that `old` samples, without a clip."""
    optimizer.zero_grad()
    for tree in forest:
        before, anchor = (trees.log_probs(model, each, tree) for each in (old, ref))
        drawn = torch.multinomial(trees.reply_probs(tree, before), SAMPLES, replacement=True, generator=generator)
        rows, mask = tree.rows[drawn], tree.mask[drawn]
        advantages = 2 * tree.is_right[drawn] - 1
        advantages = (advantages - advantages.mean()).unsqueeze(-1)
        now = trees.log_probs(model, parameters, tree)
        losses = rpg_token_losses(
            now[rows], before[rows], advantages, anchor[rows], mask, divergence="urkl",
            gradient_estimator="reinforce", beta=beta,
        ).losses  # fmt: skip
        (losses.sum() / SAMPLES / len(forest)).backward()
    optimizer.step()


def after_rl(
    model: Qwen3ForCausalLM, start: dict[str, Tensor], forest: Sequence[trees.Tree], steps: int, beta: float
) -> dict[str, Tensor]:
    """`steps` on-policy steps from `start`, which stays the reference."""
    parameters = {name: value.clone().requires_grad_() for name, value in start.items()}
    optimizer = torch.optim.AdamW(parameters.values(), lr=1e-3)
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        old = {name: value.detach().clone() for name, value in parameters.items()}
        rl_step(model, parameters, old, start, optimizer, forest, generator, beta)
    return {name: value.detach() for name, value in parameters.items()}


def by_optimizer_steps(
    model: Qwen3ForCausalLM,
    old: dict[str, Tensor],
    ref: dict[str, Tensor],
    forest: Sequence[trees.Tree],
    targets: Sequence[float],
    beta: float,
) -> list[dict[str, Tensor]]:
    """Policies at the KLs to `old` in `targets`, on the path of AdamW steps on what `old` samples.

    Between the two steps around a target the path is a straight line.
    """
    parameters = {name: value.clone().requires_grad_() for name, value in old.items()}
    optimizer = torch.optim.AdamW(parameters.values(), lr=1e-3, weight_decay=0.0)
    generator = torch.Generator().manual_seed(2)
    policies: list[dict[str, Tensor]] = []
    last = old
    for target in targets:
        for _ in range(MAX_STEPS):
            now = {name: value.detach().clone() for name, value in parameters.items()}
            if kl_of_replies(model, now, old, forest) >= target:
                policies.append(_at(model, old, last, now, forest, target))
                break
            last = now
            rl_step(model, parameters, old, ref, optimizer, forest, generator, beta)
        else:
            raise RuntimeError(f"{MAX_STEPS} steps do not lead to a KL of {target}")
    return policies


def in_a_random_direction(
    model: Qwen3ForCausalLM, old: dict[str, Tensor], forest: Sequence[trees.Tree], targets: Sequence[float]
) -> list[dict[str, Tensor]]:
    """Policies at the KLs to `old` in `targets`, along one direction as large as each weight."""
    generator = torch.Generator().manual_seed(3)
    ahead = {
        name: value + value.std() * torch.randn(value.shape, generator=generator, dtype=value.dtype)
        for name, value in old.items()
    }
    return [_at(model, old, old, ahead, forest, target) for target in targets]


def _at(
    model: Qwen3ForCausalLM,
    old: dict[str, Tensor],
    near: dict[str, Tensor],
    far: dict[str, Tensor],
    forest: Sequence[trees.Tree],
    target: float,
) -> dict[str, Tensor]:
    """The policy between near and far with that KL to old, by bisection."""
    low, high = 0.0, 1.0

    def between(share: float) -> dict[str, Tensor]:
        return {name: near[name] + share * (far[name] - near[name]) for name in near}

    for _ in range(40):
        middle = (low + high) / 2
        kl = kl_of_replies(model, between(middle), old, forest)
        if abs(kl / target - 1) < TOLERANCE:
            break
        low, high = (middle, high) if kl < target else (low, middle)
    return between(middle)
