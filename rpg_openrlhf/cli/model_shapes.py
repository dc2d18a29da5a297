"""Shapes of the models that the plans and tables name, so that they need neither a network nor transformers."""

from __future__ import annotations

from typing import NamedTuple

from rpg_openrlhf.cli.memory import Shapes


class Dense(NamedTuple):
    """What a Qwen2 or Qwen3 config.json says of a dense model."""

    hidden: int
    inner: int
    layers: int
    heads: int
    key_heads: int
    vocabulary: int
    tied: bool
    qwen3: bool  # norms of queries and keys, where Qwen2 has biases
    head: int = 128


# From config.json of each repository on the Hugging Face hub.
MODELS = {
    "Qwen/Qwen3-4B": Dense(2560, 9728, 36, 32, 8, 151936, tied=True, qwen3=True),
    "Qwen/Qwen2.5-7B-Instruct": Dense(3584, 18944, 28, 28, 4, 152064, tied=False, qwen3=False),
    "Qwen/Qwen2.5-Math-7B": Dense(3584, 18944, 28, 28, 4, 152064, tied=False, qwen3=False),
    "Qwen/Qwen3-14B": Dense(5120, 17408, 40, 40, 8, 151936, tied=False, qwen3=True),
    "Qwen/Qwen3-32B": Dense(5120, 25600, 64, 64, 8, 151936, tied=False, qwen3=True),
}


def shapes_of(name: str | None) -> Shapes | None:
    """As memory.count_shapes counts them, or None for a model that is not in the table."""
    model = MODELS.get(name or "")
    if model is None:
        return None
    query, key = model.heads * model.head, model.key_heads * model.head
    extra = 2 * model.head if model.qwen3 else query + 2 * key
    layer = 2 * model.hidden * (query + key) + 3 * model.hidden * model.inner + 2 * model.hidden + extra
    ends = model.vocabulary * model.hidden * (1 if model.tied else 2) + model.hidden
    return Shapes(
        parameters=ends + model.layers * layer,
        layers=model.layers,
        hidden=model.hidden,
        inner=model.inner,
        query=query,
        key=key,
        vocabulary=model.vocabulary,
        lora=0,
    )
