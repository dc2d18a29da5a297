"""Every reply to a prompt, and the gradient of every token's log-probability.

Legend: N nodes (prefixes of replies), V tokens; a row is a (node, token) pair, N·V of them; Y replies, T tokens of the
longest; P parameters.
"""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor
from torch.func import functional_call, jacrev, vmap
from transformers import Qwen3ForCausalLM

from examples.estimators import model as task

CHUNK = 256  # nodes, or replies, that are worked on at once

Policy = dict[str, Tensor]  # parameters by name


class Tree:
    """All replies to a prompt up to LENGTH tokens; they end with eos or at LENGTH.

    nodes: token ids of the prompt and a prefix, a tensor for each depth; rows: the row of each token of each reply,
    (Y, T), 0 where masked; mask: (Y, T) bool, False after a reply; is_right: 1 for the right answer, (Y,) float64.
    """

    def __init__(self, model: Qwen3ForCausalLM, prompt: str):
        self.model = model
        question, spoken = task.encode(prompt), range(task.EOS + 1, task.VOCABULARY)
        depths = [list(product(spoken, repeat=depth)) for depth in range(task.LENGTH)]
        self.nodes = [torch.tensor([[*question, *prefix] for prefix in prefixes]) for prefixes in depths]
        number = {prefix: i for i, prefix in enumerate(prefix for prefixes in depths for prefix in prefixes)}
        replies = [
            (*prefix, token)
            for prefix in number
            for token in range(task.VOCABULARY)
            if token == task.EOS or len(prefix) == task.LENGTH - 1
        ]
        rows = [[number[reply[:t]] * task.VOCABULARY + token for t, token in enumerate(reply)] for reply in replies]
        self.rows = torch.tensor([row + [0] * (task.LENGTH - len(row)) for row in rows])
        self.mask = torch.tensor([[t < len(row) for t in range(task.LENGTH)] for row in rows])
        right = tuple(task.answer(prompt))
        self.is_right = torch.tensor([float(reply == right) for reply in replies], dtype=torch.float64)

    def log_probs(self, policy: Policy) -> Tensor:
        """log π of every row, (N·V,); with gradient if a parameter requires it."""
        logits = [functional_call(self.model, policy, (nodes,)).logits[:, -1] for nodes in self.nodes]
        return torch.cat([part.log_softmax(-1) for part in logits]).flatten()

    def reply_probs(self, rows: Tensor) -> Tensor:
        """π of every reply, (Y,), from log_probs."""
        return torch.where(self.mask, rows[self.rows], 0.0).sum(-1).exp()

    def gradients(self, policy: Policy) -> Tensor:
        """∇ log π of every row with respect to all parameters, (N·V, P): 2.4 GB for a whole tree."""

        def last(weights: Policy, tokens: Tensor) -> Tensor:
            return functional_call(self.model, weights, (tokens.unsqueeze(0),)).logits[0, -1].log_softmax(-1)

        size = sum(value.numel() for value in policy.values())
        gradients = torch.empty(sum(map(len, self.nodes)), task.VOCABULARY, size, dtype=torch.float64)
        first = 0
        for chunk in (chunk for nodes in self.nodes for chunk in nodes.split(CHUNK)):
            parts = vmap(jacrev(last), in_dims=(None, 0))(policy, chunk)
            gradients[first : first + len(chunk)] = torch.cat([part.flatten(2) for part in parts.values()], -1)
            first += len(chunk)
        return gradients.flatten(0, 1)
