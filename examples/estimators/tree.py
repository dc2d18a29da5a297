"""Every reply of a prompt, and the gradient of every token's log-probability.

Legend: N nodes (prefixes of replies), V tokens; a row is a (node, token) pair, N·V of them; Y replies, T tokens of the
longest; P parameters.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import functional_call, jacrev, vmap
from transformers import Qwen3ForCausalLM

from examples.estimators import model as task

CHUNK = 256  # nodes whose gradients are held at once


@dataclass(frozen=True)
class Tree:
    """All replies of a prompt up to LENGTH tokens."""

    prompt: list[int]
    nodes: list[list[list[int]]]  # by depth: prefixes without eos
    rows: Tensor  # (Y, T) row of each token of each reply, 0 where masked
    mask: Tensor  # (Y, T) bool
    is_right: Tensor  # (Y,) float64: 1 for the right answer

    @property
    def first_node(self) -> list[int]:
        """The number of each depth's first node."""
        starts = [0]
        for prefixes in self.nodes:
            starts.append(starts[-1] + len(prefixes))
        return starts


def tree_of(prompt: str) -> Tree:
    """Replies end with eos or at LENGTH."""
    nodes: list[list[list[int]]] = [[[]]]
    ids = {(): 0}
    rows, right = [], []
    truth = task.answer(prompt)
    for depth in range(task.LENGTH):
        following = []
        for prefix in nodes[depth]:
            path = [ids[tuple(prefix[:i])] * task.VOCABULARY + token for i, token in enumerate(prefix)]
            for token in range(task.VOCABULARY):
                if token == task.EOS or depth == task.LENGTH - 1:
                    rows.append([*path, ids[tuple(prefix)] * task.VOCABULARY + token])
                    right.append(float([*prefix, token] == truth))
                else:
                    following.append([*prefix, token])
                    ids[tuple(following[-1])] = len(ids)
        if following:
            nodes.append(following)
    mask = torch.tensor([[t < len(row) for t in range(task.LENGTH)] for row in rows])
    padded = torch.tensor([row + [0] * (task.LENGTH - len(row)) for row in rows])
    return Tree(task.encode(prompt), nodes, padded, mask, torch.tensor(right, dtype=torch.float64))


def _inputs(tree: Tree, depth: int) -> Tensor:
    return torch.tensor([tree.prompt + prefix for prefix in tree.nodes[depth]])


def log_probs(model: Qwen3ForCausalLM, parameters: dict[str, Tensor], tree: Tree) -> Tensor:
    """log π of every row, (N·V,); with gradient where a parameter wants one."""
    replies = [
        functional_call(model, parameters, (_inputs(tree, depth),)).logits[:, -1].log_softmax(-1)
        for depth in range(len(tree.nodes))
    ]
    return torch.cat(replies).flatten()


def reply_probs(tree: Tree, rows: Tensor) -> Tensor:
    """π of every reply, (Y,), from log_probs."""
    return torch.where(tree.mask, rows[tree.rows], 0.0).sum(-1).exp()


def gradients(model: Qwen3ForCausalLM, parameters: dict[str, Tensor], tree: Tree) -> Iterator[tuple[int, Tensor]]:
    """(first node, ∇ log π of a chunk of nodes by all parameters, (nodes, V, P)), in the order of nodes."""

    def last(weights: dict[str, Tensor], tokens: Tensor) -> Tensor:
        return functional_call(model, weights, (tokens.unsqueeze(0),)).logits[0, -1].log_softmax(-1)

    for depth, start in enumerate(tree.first_node[:-1]):
        inputs = _inputs(tree, depth)
        for first in range(0, len(inputs), CHUNK):
            chunk = vmap(jacrev(last), in_dims=(None, 0))(parameters, inputs[first : first + CHUNK])
            yield start + first, torch.cat([value.flatten(2) for value in chunk.values()], -1)
