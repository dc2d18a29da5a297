"""Log-probs without logits under DeepSpeed: ZeRO 0 to 3, one and two ranks, tied and untied, padded and packed."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen3Config


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Tied and untied, with random weights."""
    folders = []
    for tied in (True, False):
        torch.manual_seed(0)
        config = Qwen3Config(
            vocab_size=1000, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, head_dim=8, tie_word_embeddings=tied,
        )  # fmt: skip
        folders.append(tmp_path_factory.mktemp("tied" if tied else "untied"))
        AutoModelForCausalLM.from_config(config).save_pretrained(folders[-1])
    return folders


@pytest.mark.parametrize("world", [1, 2])
def test_training_equals_that_with_whole_logits(ranks, models, tmp_path, world):
    """Old log-probs, losses, gradient norms and weights over three AdamW steps of two micro-batches, in fp32."""
    ranks.run("chunked_head_of_ranks", *models, tmp_path, folder=tmp_path, world=world)
    for rank in range(world):
        found = json.loads((tmp_path / f"rank{rank}.json").read_text())
        assert len(found) == 6
        for case, difference in found.items():
            assert difference.pop("moved") > 1e-3, case
            weights = difference.pop("weights")
            assert all(value <= 1e-6 for value in difference.values()), (case, difference)
            assert weights <= 5e-6, (case, weights)  # Adam divides by gradients of the size of its eps
