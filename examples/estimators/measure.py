"""Error and noise of every estimator at one policy, by enumeration in float64.

Legend: R references, M methods, K targets; Y replies, T tokens, N·V rows, P parameters of tree.py. A reply's
gradient ĝ is Σ_t c_t ∇ log π of its tokens, c from the loss. ∇ log π of each row is computed once for all methods;
it gives ĝ's mean over π_old and its square.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from examples.estimators.methods import Method
from examples.estimators.tree import CHUNK, Policy, Tree
from tests import oracle


def measure(
    forest: Sequence[Tree], policy: Policy, old: Policy, refs: Sequence[Policy], methods: Sequence[Method], beta: float
) -> tuple[Tensor, Tensor]:
    """Return errors |E ĝ - ∇J| / |∇J| and noises, the trace of the covariance of one reply's ĝ over |∇J|²; (R, M).

    J is E[R] - β·D of whole replies, averaged over prompts; the noise is that of replies to one prompt, averaged.
    """
    targets = sorted({method.target for method in methods})
    means, truths, traces = [], [], []
    for tree in forest:
        now, before = tree.log_probs(policy), tree.log_probs(old)
        anchors, weights = [tree.log_probs(ref) for ref in refs], tree.reply_probs(before)
        tokens = torch.stack(
            [coefficients_of(method, tree, now, before, ref) for ref in anchors for method in methods]
        )
        exact = torch.stack([_true_coefficients(name, tree, now, ref, beta) for ref in anchors for name in targets])
        rows = torch.zeros(len(tokens), len(now), dtype=torch.float64)
        rows.index_add_(1, tree.rows[tree.mask], (tokens * weights.unsqueeze(-1))[:, tree.mask])
        sums, squares = _contract(tree, policy, torch.cat([rows, exact]), tokens, weights)
        means.append(sums[: len(tokens)])
        truths.append(sums[len(tokens) :])
        traces.append(squares - means[-1].square().sum(-1))
    mean, trace = (torch.stack(parts).mean(0).unflatten(0, (len(refs), -1)) for parts in (means, traces))
    truth = torch.stack(truths).mean(0).unflatten(0, (len(refs), -1))  # (R, K, P)
    goals = truth[:, [targets.index(method.target) for method in methods]]
    return (mean - goals).norm(dim=-1) / goals.norm(dim=-1), trace / goals.square().sum(-1)


def _contract(tree: Tree, policy: Policy, rows: Tensor, tokens: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return rows, (·, N·V), times ∇ log π, (·, P); and E_old of |Σ_t c_t ∇ log π|², (R·M,).

    tokens is c, (R·M, Y, T). The square uses inner products of a reply's rows.
    """
    gradients = tree.gradients(policy)
    squares = torch.zeros(len(tokens), dtype=torch.float64)
    for chunk in torch.arange(len(weights)).split(CHUNK):
        path, c = gradients[tree.rows[chunk]], tokens[:, chunk]
        squares += torch.einsum("myt,yts,mys,y->m", c, path @ path.mT, c, weights[chunk])
    return rows @ gradients, squares


@torch.no_grad()
def kl_of_replies(forest: Sequence[Tree], policy: Policy, old: Policy) -> float:
    """KL(π_θ‖π_old) of a reply in nats, mean over prompts."""
    total = 0.0
    for tree in forest:
        now, before = (tree.reply_probs(tree.log_probs(each)) for each in (policy, old))
        total += float((now * (now / before).log()).sum())
    return total / len(forest)


@torch.no_grad()
def accuracy(forest: Sequence[Tree], policy: Policy) -> float:
    """Probability of the right reply, mean over prompts."""
    return float(torch.stack([tree.reply_probs(tree.log_probs(policy)) @ tree.is_right for tree in forest]).mean())


def coefficients_of(method: Method, tree: Tree, now: Tensor, old: Tensor, ref: Tensor) -> Tensor:
    """c of every reply: minus the derivative of its loss by each token's log-probability, (Y, T), 0 where masked."""
    rewards = 2 * tree.is_right - 1
    advantages = rewards - tree.reply_probs(old) @ rewards  # the exact baseline
    leaf, before, anchor = (torch.where(tree.mask, each[tree.rows], 0.0) for each in (now, old, ref))
    losses = method.loss(leaf.requires_grad_(), before, anchor, advantages.unsqueeze(-1), tree.mask)
    (gradient,) = torch.autograd.grad(torch.where(tree.mask, losses, 0.0).sum(), leaf)
    return torch.where(tree.mask, -gradient, 0.0)


def _true_coefficients(target: str, tree: Tree, now: Tensor, ref: Tensor, beta: float) -> Tensor:
    """∂J/∂ log π of every row, J added up over all replies as the oracle defines it; (N·V,)."""
    leaf = now.clone().requires_grad_()
    divergence, strength = ("rkl", 0.0) if target == "none" else (target, beta)
    policy, reference = tree.reply_probs(leaf), tree.reply_probs(ref)
    value = oracle.objective(divergence, policy, reference, 2 * tree.is_right - 1, strength)
    return torch.autograd.grad(value, leaf)[0]
