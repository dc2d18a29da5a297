"""Log-probs without logits under DeepSpeed: ZeRO 0 to 3, one and two ranks, tied and untied, padded and packed."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen3Config

SCRIPT = "tests.integration.chunked_head_of_ranks"
ROOT = Path(__file__).parents[2]


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
def test_training_equals_that_with_whole_logits(models, tmp_path, world):
    """Old log-probs, losses, gradient norms and weights over three AdamW steps of two micro-batches, in fp32."""
    port = str(random.SystemRandom().randrange(20_000, 32_768))
    common = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(world)}
    command = [sys.executable, "-m", SCRIPT, *map(str, models), str(tmp_path)]
    ranks = [
        subprocess.Popen(
            command, env={**common, "RANK": str(rank)}, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        for rank in range(world)
    ]
    try:
        outputs = [rank.communicate(timeout=300)[0].decode() for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0] * world, "\n".join(out[-3000:] for out in outputs)
    for rank in range(world):
        found = json.loads((tmp_path / f"rank{rank}.json").read_text())
        assert len(found) == 6
        for case, difference in found.items():
            assert difference.pop("moved") > 1e-3, case
            weights = difference.pop("weights")
            assert all(value <= 1e-6 for value in difference.values()), (case, difference)
            assert weights <= 5e-6, (case, weights)  # Adam divides by gradients of the size of its eps
