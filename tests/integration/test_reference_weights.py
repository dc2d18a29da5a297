"""The reference's weights under DeepSpeed: ZeRO 0 to 3, one and two ranks, bf16 and fp32."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file


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
def test_reference_in_every_zero_stage(ranks, tiny, other, tmp_path, world):
    """After a refresh log-probs are equal to the bit, a mix is right in fp32, and the policy never notices."""
    ranks.run("reference_of_ranks", tiny[0], other, tmp_path, folder=tmp_path, world=world)
    for rank in range(world):
        found = json.loads((tmp_path / f"rank{rank}.json").read_text())
        assert len(found) == 3 + world
        failed = {case: [name for name, held in checks.items() if not held] for case, checks in found.items()}
        assert not any(failed.values()), failed
