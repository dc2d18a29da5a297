"""The measured policies: after warm-up, after RL, and at given KLs from the sampling policy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

import torch

from examples.estimators.measure import kl_of_replies
from examples.estimators.tree import Policy, Tree
from rpg_openrlhf.objectives.losses import rpg_token_losses

SAMPLES = 64  # replies a prompt and step
TOLERANCE = 0.02  # relative, of a KL that is searched for
MAX_STEPS = 200  # optimizer steps between two targets


def _rl_steps(
    start: Policy, ref: Policy, forest: Sequence[Tree], beta: float, seed: int, decay: float, on_policy: bool
) -> Iterator[Policy]:
    """`start`, then the policy after each AdamW step of RPG-REINFORCE-URKL, without a clip.

    Replies are sampled by the policy before the step (on_policy), or all by `start`.
    """
    parameters = {name: value.clone().requires_grad_() for name, value in start.items()}
    optimizer = torch.optim.AdamW(parameters.values(), lr=1e-3, weight_decay=decay)
    generator = torch.Generator().manual_seed(seed)
    while True:
        now = {name: value.detach().clone() for name, value in parameters.items()}
        yield now
        optimizer.zero_grad()
        for tree in forest:
            before, anchor = tree.log_probs(now if on_policy else start), tree.log_probs(ref)
            drawn = torch.multinomial(tree.reply_probs(before), SAMPLES, replacement=True, generator=generator)
            rows, mask = tree.rows[drawn], tree.mask[drawn]
            advantages = 2 * tree.is_right[drawn] - 1
            advantages = (advantages - advantages.mean()).unsqueeze(-1)
            losses = rpg_token_losses(
                tree.log_probs(parameters)[rows], before[rows], advantages, anchor[rows], mask, divergence="urkl",
                gradient_estimator="reinforce", beta=beta,
            ).losses  # fmt: skip
            (losses.sum() / SAMPLES / len(forest)).backward()
        optimizer.step()


def after_rl(start: Policy, forest: Sequence[Tree], steps: int, beta: float) -> Policy:
    """`steps` on-policy steps from `start`, which stays the reference."""
    path = _rl_steps(start, start, forest, beta, seed=1, decay=0.01, on_policy=True)
    return next(islice(path, steps, None))


def by_optimizer_steps(
    old: Policy, ref: Policy, forest: Sequence[Tree], targets: Sequence[float], beta: float
) -> list[Policy]:
    """Policies at the KLs to `old` in `targets`, on the path of AdamW steps on replies that `old` samples.

    The path is linear between two steps.
    """
    path = _rl_steps(old, ref, forest, beta, seed=2, decay=0.0, on_policy=False)
    last = now = next(path)
    policies: list[Policy] = []
    for target in targets:
        for _ in range(MAX_STEPS):
            if kl_of_replies(forest, now, old) >= target:
                policies.append(_at(old, last, now, forest, target))
                break
            last, now = now, next(path)
        else:
            raise RuntimeError(f"{MAX_STEPS} steps do not lead to a KL of {target}")
    return policies


def in_a_random_direction(old: Policy, forest: Sequence[Tree], targets: Sequence[float]) -> list[Policy]:
    """Policies at the KLs to `old` in `targets`, along a random direction in each parameter's scale."""
    generator = torch.Generator().manual_seed(3)
    ahead = {
        name: value + value.std() * torch.randn(value.shape, generator=generator, dtype=value.dtype)
        for name, value in old.items()
    }
    return [_at(old, old, ahead, forest, target) for target in targets]


def _at(old: Policy, near: Policy, far: Policy, forest: Sequence[Tree], target: float) -> Policy:
    """The policy between near and far with the KL `target` to old, by bisection."""
    low, high, policy = 0.0, 1.0, near
    for _ in range(40):
        middle = (low + high) / 2
        policy = {name: near[name] + middle * (far[name] - near[name]) for name in near}
        kl = kl_of_replies(forest, policy, old)
        if abs(kl / target - 1) < TOLERANCE:
            break
        low, high = (middle, high) if kl < target else (low, middle)
    return policy
