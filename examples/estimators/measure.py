"""Error and noise of every estimator at one policy, by enumeration in float64.

Legend: M methods; Y replies, T tokens, N·V rows, P parameters of tree.py. A reply's gradient is Σ_t c_t ∇ log π of its
tokens, with c from the loss. Its mean over π_old and its square need ∇ log π of each row once for all methods.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import Qwen3ForCausalLM

from examples.estimators import model as task
from examples.estimators import tree as trees
from examples.estimators.methods import Method
from tests import oracle


@dataclass(frozen=True)
class Measured:
    """Result of one method: |E ĝ - ∇J| / |∇J|, and the trace of the covariance of one reply's ĝ over |∇J|²."""

    error: float
    noise: float


def measure(
    model: Qwen3ForCausalLM,
    policy: dict[str, Tensor],
    old: dict[str, Tensor],
    refs: Sequence[dict[str, Tensor]],
    forest: Sequence[trees.Tree],
    methods: Sequence[Method],
    beta: float,
) -> list[list[Measured]]:
    """Return one Measured a method for each reference.

    ∇J is that of E[R] - β·D of whole replies, mean over prompts; the noise that of replies to one prompt.
    """
    targets = sorted({method.target for method in methods})
    count = len(refs) * len(methods)
    means, truths, noise = [], [], torch.zeros(count, dtype=torch.float64)
    for tree in forest:
        now, before = (trees.log_probs(model, each, tree) for each in (policy, old))
        weights, coefficients, left, exact = trees.reply_probs(tree, before), [], [], []
        for ref in refs:
            anchor = trees.log_probs(model, ref, tree)
            coefficients += [coefficients_of(method, tree, now, before, anchor) for method in methods]
            exact += [_true_coefficients(target, tree, now, anchor, beta) for target in targets]
        stacked = torch.stack(coefficients)
        left = torch.zeros(count, len(now), dtype=torch.float64)
        left.index_add_(1, tree.rows[tree.mask], (stacked * weights.unsqueeze(-1))[:, tree.mask])
        sums, squares = _contract(model, policy, tree, torch.cat([left, torch.stack(exact)]), stacked, weights)
        means.append(sums[:count])
        truths.append(sums[count:])
        noise += (squares - sums[:count].square().sum(-1)) / len(forest)
    mean, truth = torch.stack(means).mean(0), torch.stack(truths).mean(0)
    results: list[list[Measured]] = []
    for r in range(len(refs)):
        goals = [truth[r * len(targets) + targets.index(method.target)] for method in methods]
        rows = range(r * len(methods), (r + 1) * len(methods))
        results.append(
            [
                Measured(float((mean[i] - goal).norm() / goal.norm()), float(noise[i] / goal.square().sum()))
                for i, goal in zip(rows, goals, strict=True)
            ]
        )
    return results


@torch.no_grad()
def kl_of_replies(
    model: Qwen3ForCausalLM, policy: dict[str, Tensor], old: dict, forest: Sequence[trees.Tree]
) -> float:
    """KL(π_θ‖π_old) of a reply in nats, mean over prompts."""
    total = 0.0
    for tree in forest:
        now, before = (trees.reply_probs(tree, trees.log_probs(model, each, tree)) for each in (policy, old))
        total += float((now * (now / before).log()).sum())
    return total / len(forest)


@torch.no_grad()
def accuracy(model: Qwen3ForCausalLM, policy: dict[str, Tensor], forest: Sequence[trees.Tree]) -> float:
    """Probability of the right reply, mean over prompts."""
    probs = [trees.reply_probs(tree, trees.log_probs(model, policy, tree)) @ tree.is_right for tree in forest]
    return float(torch.stack(probs).mean())


def coefficients_of(method: Method, tree: trees.Tree, now: Tensor, old: Tensor, ref: Tensor) -> Tensor:
    """c of every reply: minus the gradient of its loss by each token's log-probability, (Y, T)."""
    rewards = 2 * tree.is_right - 1
    advantages = rewards - trees.reply_probs(tree, old) @ rewards  # the exact baseline
    leaf = torch.where(tree.mask, now[tree.rows], 0.0).requires_grad_()
    before, anchor = (torch.where(tree.mask, each[tree.rows], 0.0) for each in (old, ref))
    losses = method.loss(leaf, before, anchor, advantages.unsqueeze(-1), tree.mask)
    return -torch.autograd.grad(torch.where(tree.mask, losses, 0.0).sum(), leaf)[0]


def _true_coefficients(target: str, tree: trees.Tree, now: Tensor, ref: Tensor, beta: float) -> Tensor:
    """∂J/∂ log π of every row, J added up over all replies as the oracle defines it; (N·V,)."""
    leaf = now.clone().requires_grad_()
    rewards = 2 * tree.is_right - 1
    divergence, strength = ("rkl", 0.0) if target == "none" else (target, beta)
    value = oracle.objective(
        divergence, trees.reply_probs(tree, leaf), trees.reply_probs(tree, ref), rewards, strength
    )
    return torch.autograd.grad(value, leaf)[0]


def _contract(
    model: Qwen3ForCausalLM,
    policy: dict[str, Tensor],
    tree: trees.Tree,
    left: Tensor,
    coefficients: Tensor,
    weights: Tensor,
) -> tuple[Tensor, Tensor]:
    """left (K, N·V) times ∇ log π, (K, P); and E_old of |Σ_t c_t ∇ log π|² of each method, (M,).

    The square needs the inner products of a row with itself and with the rows before it in its reply, no others.
    """
    sums = torch.zeros(len(left), sum(value.numel() for value in policy.values()), dtype=torch.float64)
    inner = torch.zeros(tree.first_node[-1], task.VOCABULARY, task.LENGTH, dtype=torch.float64)
    below = tree.first_node[-2]  # nodes from here on are nobody's ancestors
    above = torch.empty(0, sums.shape[1], dtype=torch.float64)  # ∇ log π of the rows that are
    paths = _paths(tree)
    for first, chunk in trees.gradients(model, policy, tree):  # (nodes, V, P)
        nodes = slice(first, first + len(chunk))
        flat = chunk.flatten(0, 1)
        sums.addmm_(left[:, first * task.VOCABULARY :][:, : len(flat)], flat)
        inner[nodes, :, 0] = chunk.square().sum(-1)
        for back in range(1, task.LENGTH):
            ancestors = paths[nodes, back - 1]
            has = ancestors >= 0
            inner[nodes, :, back][has] = torch.einsum("nvp,np->nv", chunk[has], above[ancestors[has]])
        if first < below:
            above = torch.cat([above, flat])
    inner = inner.flatten(0, 1)
    squares = torch.zeros(len(coefficients), dtype=torch.float64)
    for t in range(task.LENGTH):
        for back in range(t + 1):
            product = inner[tree.rows[:, t], back] * tree.mask[:, t] * weights
            pair = coefficients[:, :, t] * coefficients[:, :, t - back]
            squares += (1.0 if back == 0 else 2.0) * (pair @ product)
    return sums, squares


def _paths(tree: trees.Tree) -> Tensor:
    """(N, T - 1): the rows that lead to a node, the nearest first, -1 where there is none."""
    paths = torch.full((tree.first_node[-1], task.LENGTH - 1), -1)
    for t in range(1, task.LENGTH):
        seen = tree.mask[:, t]
        for back in range(1, t + 1):
            paths[tree.rows[seen, t] // task.VOCABULARY, back - 1] = tree.rows[seen, t - back]
    return paths
