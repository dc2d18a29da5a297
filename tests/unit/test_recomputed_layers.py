"""Layers that keep their activations: fewer forward passes, the same gradient."""

import pytest
import torch

from tests.upstream import make_importable

make_importable()

from transformers import Qwen3Config, Qwen3ForCausalLM

from rpg_openrlhf.training.actors import keep_activations

LAYERS = 4


def gradient(recomputed: int | None) -> tuple[list[torch.Tensor], int]:
    """Of a tiny model's loss; and how often its layers were begun."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 2}
    model = Qwen3ForCausalLM(Qwen3Config(vocab_size=32, num_hidden_layers=LAYERS, head_dim=8, **sizes)).double()
    model.config.use_cache = False
    model.train()
    if recomputed is not None:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        keep_activations(model, recomputed)
    passes = []
    for layer in model.model.layers:
        layer.input_layernorm.register_forward_pre_hook(lambda *_: passes.append(1))
    ids = torch.arange(24).reshape(2, 12) % 32
    model(ids, labels=ids).loss.backward()
    return [weight.grad for weight in model.parameters()], len(passes)


@pytest.mark.parametrize("recomputed", [1, 2, LAYERS, LAYERS + 3])
def test_only_so_many_layers_run_twice_and_the_gradient_is_the_same(recomputed):
    expected, once = gradient(None)
    found, passes = gradient(recomputed)
    assert (once, passes) == (LAYERS, LAYERS + min(recomputed, LAYERS))
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
