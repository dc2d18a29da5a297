"""The reference's weights under DeepSpeed: ZeRO 0 to 3, one and two ranks, bf16 and fp32."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

SCRIPT = "tests.integration.reference_of_ranks"
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def other(tiny, tmp_path_factory):
    """The tiny model with other weights."""
    folder = tmp_path_factory.mktemp("other") / "model"
    folder.mkdir()
    for file in tiny[0].iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    weights = load_file(folder / "model.safetensors")
    weights = {name: torch.randn_like(weight.float()).to(weight.dtype) for name, weight in weights.items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("world", [1, 2])
def test_reference_in_every_zero_stage(tiny, other, tmp_path, world):
    """After a refresh log-probs are equal to the bit, a mix is right in fp32, and the policy never notices."""
    port = str(random.SystemRandom().randrange(20_000, 32_768))
    common = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(world)}
    command = [sys.executable, "-m", SCRIPT, str(tiny[0]), str(other), str(tmp_path)]
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
        assert len(found) == 3 + world
        failed = {case: [name for name, held in checks.items() if not held] for case, checks in found.items()}
        assert not any(failed.values()), failed
