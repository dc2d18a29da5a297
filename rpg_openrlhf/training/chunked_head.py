"""OpenRLHF's Actor with log-probs and entropy straight from the hidden states: no logits of a whole micro-batch.

The forward of the model's output layer is replaced on the layer itself. The model still calls the layer, so that
DeepSpeed's hooks gather its weight before, release it after, and do both again for the backward pass. An attribute
holds the question (tokens and labels); the answer passes through the model as its logits.
Shapes: B sequences of S tokens, A of them possible actions; N action tokens, H hidden size.
"""

import contextlib
import logging
from collections.abc import Iterator
from types import SimpleNamespace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from openrlhf.models import Actor
from torch import nn

from rpg_openrlhf.objectives.log_probs import linear_log_probs_and_entropy

logger = logging.getLogger(__name__)


class Question(NamedTuple):
    places: torch.Tensor  # (N,), indices of the flattened hidden states
    labels: torch.Tensor  # (N,)
    temperature: float
    with_entropy: bool


class ChunkedHead:
    """Replacement of an output layer's forward; without a question it calls the original one."""

    def __init__(self, layer: nn.Linear):
        self.layer, self.plain = layer, layer.forward
        self.question: Question | None = None
        self.answer: torch.Tensor | None = None
        layer.forward = self.forward

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """(..., H) -> logits; for a question log-probs (N, 1), or log-probs and entropy (N, 2)."""
        if self.question is None:
            return self.plain(hidden)
        places, labels, temperature, with_entropy = self.question
        hidden = hidden.reshape(-1, hidden.shape[-1]).index_select(0, places)
        log_probs, entropy = linear_log_probs_and_entropy(
            hidden, self.layer.weight, labels, temperature, self.layer.bias, with_entropy=with_entropy
        )
        self.answer = torch.stack([log_probs] if entropy is None else [log_probs, entropy], dim=1)
        return self.answer

    def is_answer(self, logits: torch.Tensor) -> bool:
        """True if a model's logits are the layer's answer: not scaled, capped or computed elsewhere."""
        answer = self.answer
        return answer is not None and logits.is_set_to(answer) and logits._version == answer._version == 0


class ChunkedActor(Actor):
    """Differs from upstream's Actor in how log-probs are computed; the values for action tokens are the same.

    A model that changes the logits of its output layer falls back to upstream's path, with a line in the log. With
    `required` that is an error.
    """

    required = False

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        layer = self.model.get_output_embeddings()
        self.head = ChunkedHead(layer) if type(layer) is nn.Linear else None
        if self.head is None:
            self._fall_back(f"has a {type(layer).__name__} as its output layer")

    def forward(
        self, sequences, action_mask=None, attention_mask=None, return_output=False, *, return_entropy=False, **kwargs
    ):
        """Differs from upstream: the output's logits are None, and its entropy is zero where no action was taken.

        Without an action mask, or with ring attention, upstream's path is used.
        """
        if self.head and action_mask is not None and kwargs.get("ring_attn_group") is None:
            answer = self._ask(sequences, action_mask, attention_mask, return_entropy, **kwargs)
            if answer:
                return answer if return_output else answer[0]
        options = {"return_output": return_output, "return_entropy": return_entropy}
        return super().forward(sequences, action_mask, attention_mask, **options, **kwargs)

    def _ask(self, sequences, action_mask, attention_mask, return_entropy: bool, **kwargs):
        """Action log-probs (B, A) and upstream's output; None where the model's answer is not the head's."""
        # Position t predicts token t + 1, and the last A tokens may be actions.
        before = sequences.shape[1] - 1 - action_mask.shape[1]
        asked = F.pad(action_mask.bool(), (before, 1))
        present = attention_mask.bool()
        if self.packing_samples:
            asked = asked & present
        places = (asked[present] if self.packing_samples else asked.flatten()).nonzero().squeeze(1)
        labels = sequences.roll(-1, dims=1)[asked]
        with self._asking(Question(places, labels, self.temperature, return_entropy)):
            output = super().forward(sequences, attention_mask=attention_mask, return_output=True, **kwargs)
            if not self.head.is_answer(output["logits"]):
                return self._fall_back("does more to its logits than its output layer")
        values, output["logits"] = output["logits"], None
        columns = [torch.zeros(asked.shape, device=values.device).masked_scatter(asked, v) for v in values.unbind(1)]
        if return_entropy:
            output.entropy = columns[1][:, :-1]
        return columns[0][:, before:-1], output

    @contextlib.contextmanager
    def _asking(self, question: Question) -> Iterator[None]:
        """Let the head answer inside the context. It applies the temperature, so upstream's is set to 1."""
        self.head.question, self.temperature = question, 1.0
        head = self.head
        try:
            yield
        finally:
            head.question, head.answer, self.temperature = None, None, question.temperature

    def _fall_back(self, reason: str) -> None:
        what = f"{type(getattr(self.model, 'module', self.model)).__name__} {reason}"
        if self.required:
            raise RuntimeError(f"--actor.chunked_head on: {what}; use auto, which computes whole logits")
        logger.warning("whole logits are computed: %s (--actor.chunked_head auto)", what)
        self.head = None


class RequiredChunkedActor(ChunkedActor):
    """Differs from ChunkedActor in never falling back."""

    required = True


def actor_class(args: SimpleNamespace) -> type[Actor]:
    """The Actor of `--actor.chunked_head`."""
    return {"auto": ChunkedActor, "on": RequiredChunkedActor, "off": Actor}[args.actor.chunked_head]
