"""Schedule-Free AdamW under DeepSpeed is Schedule-Free AdamW, and what leaves the policy is its average."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.integration.conftest import finite_steps

HERE = Path(__file__).parent


@pytest.mark.parametrize("world", [1, 2])
def test_twenty_steps_equal_plain_torch(ranks, tmp_path, world):
    """Clipped, accumulated, warmed up, decayed; and after a resume to the bit. The script checks the bf16 rounding."""
    ranks.run("schedule_free_steps", tmp_path, folder=tmp_path, world=world)
    report = json.loads((tmp_path / "report.json").read_text())
    assert len(report) == 10
    for case, found in report.items():
        within = 1e-6 if case.startswith("fp32") else 4e-3  # in bf16 the gradients too are rounded
        assert max(found["x"], found["y"]) < within, (case, found)
        assert found["y - x"] > 4e-4, "x and y are not told apart"
        assert found.get("resumed at x", 0) == found.get("resumed at y", 0) == 0, (case, found)
    assert sum("resumed at x" in found for found in report.values()) == 6


def test_the_engines_hold_the_average(train):
    """On two ranks: what vLLM holds after each sync, and what is saved, is x, another than the y that was trained."""
    run = train(
        *("--actor.optim", "schedulefree", "--actor.lr_scheduler", "constant_with_warmup"),
        *("--actor.num_gpus_per_node", "2", "--train.micro_batch_size", "8", "--actor.lr_warmup_ratio", "0.5"),
        entry=(str(HERE / "observed_weights.py"),),
    )
    steps = finite_steps(run)
    syncs = torch.load(run.run_dir / "syncs.pt")
    assert len(syncs) == 3
    saved = load_file(run.run_dir.parent / "model" / "model.safetensors")
    for number, seen in enumerate(syncs):
        for name, weight in seen["engine"].items():
            assert torch.equal(weight, seen["x"][name]), (number, name)
            assert not torch.equal(weight, seen["y"][name]), (number, name)
            if number == 2:
                assert torch.equal(weight, saved[name]), name
    assert [step["actor_lr"] for step in steps] == pytest.approx([2e-3 / 3, 1e-3, 1e-3])
