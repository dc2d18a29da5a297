"""Resume on another number of ranks, under another ZeRO stage: nothing changes but who holds what."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rpg_openrlhf import shards
from rpg_openrlhf.runs.checkpoints import ACTOR

STEPS = 2


@pytest.mark.parametrize(
    ("kind", "way"),
    [
        ("fp32", [(2, 2), (1, 3), (2, 1)]),
        ("bf16", [(2, 3), (1, 2)]),
        ("schedulefree", [(2, 2), (1, 3)]),
    ],
)
def test_other_ranks_and_stages_go_on_as_if_nothing_had_changed(ranks, tmp_path, kind, way):
    """(ranks, ZeRO stage) after (ranks, ZeRO stage), two steps each, against one rank that takes them all."""

    def run(world: int, *arguments) -> dict:
        output = ranks.run("resharded_steps", *arguments, folder=tmp_path, world=world)[0]
        return json.loads(next(line for line in output.splitlines() if line.startswith('{"losses"')))

    undisturbed = run(1, 2, kind, STEPS * len(way), tmp_path / "undisturbed")
    losses, source = [], []
    for number, (world, stage) in enumerate(way):
        found = run(world, stage, kind, STEPS, tmp_path / str(number), *source)
        assert found["wrong"] == []
        assert found["steps"] == STEPS * (number + 1)
        assert found["reference"] == pytest.approx(undisturbed["reference"], abs=1e-6 if kind != "bf16" else 1e-2)
        losses += found["losses"]
        source = [tmp_path / str(number), world]
    assert losses == pytest.approx(undisturbed["losses"], abs=1e-5 if kind != "bf16" else 2e-2)


def test_a_run_goes_on_with_other_ranks(train, tiny, tmp_path):
    """Two ranks, then one under ZeRO 3; with a reference, and with the average that is saved.

    The way back, from one rank under ZeRO 3 to two: test_asynchronous.py.
    """
    flags = ["--ckpt.save_steps", "1", "--ref.refresh", "interval", "--ref.interval", "2", "--rpg.beta", "0.01"]
    flags += ["--train.enable_ema", "--train.ema_beta", "0.5", "--train.full_determinism_enable"]
    flags += ["--train.num_episodes", "2", "--train.batch_size", "64"]
    two = ["--actor.num_gpus_per_node", "2", "--ref.num_gpus_per_node", "2"]
    weights = []
    for rollouts, ranks in ((3, two), (4, ["--ds.zero_stage", "3"])):
        run = train(*flags, *ranks, "--train.max_rollouts", str(rollouts))
        assert run.returncode == 0, run.output
        weights.append(load_file(tmp_path / "run" / "model" / "model.safetensors"))
        if rollouts == 3:
            check_average(tiny[0], tmp_path / "run" / "checkpoints" / ACTOR, weights[0])
    assert "--ds.zero_stage: 2 in the checkpoint, 3 from here on" in run.output
    assert [step["step"] for step in run.metrics] == [1, 2, 3, 4]
    assert all("ref/kl_start" in step for step in run.metrics)
    assert all(step["actor_grad_norm"] > 0 for step in run.metrics)
    assert all(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def check_average(start: Path, folder: Path, saved: dict[str, torch.Tensor]) -> None:
    """Half of the average before and half of the policy, after each of three steps; that is what is saved."""
    average = {name: weight.float() for name, weight in load_file(start / "model.safetensors").items()}
    for step in (1, 2, 3):
        file = folder / f"global_step{step}" / "mp_rank_00_model_states.pt"
        policy = torch.load(file, weights_only=False)["module"]
        average = {name: 0.5 * weight + 0.5 * policy[name].float() for name, weight in average.items()}
    held = shards.read(folder / "global_step3", "average")
    for name, weight in average.items():
        whole = torch.cat([piece.values for piece in sorted(held[name], key=lambda piece: piece.start)])
        torch.testing.assert_close(whole, weight.flatten(), atol=1e-6, rtol=1e-6)
        assert torch.equal(saved[name].flatten(), whole.to(saved[name].dtype))
    assert any(not torch.equal(saved[name], policy[name]) for name in average)
