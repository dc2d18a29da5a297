"""Resume on another number of ranks, under another ZeRO stage: nothing changes but who holds what."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rpg_openrlhf import shards
from rpg_openrlhf.runs.checkpoints import ACTOR

SCRIPT = "tests.integration.resharded_steps"
ROOT = Path(__file__).parents[2]
STEPS = 2


def run(world: int, *arguments) -> dict:
    port = str(random.SystemRandom().randrange(20_000, 32_768))
    common = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(world)}
    command = [sys.executable, "-m", SCRIPT, *map(str, arguments)]
    ranks = []
    for rank in range(world):
        own = {**common, "RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"}
        ranks.append(
            subprocess.Popen(command, env=own, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
    try:
        outputs = [rank.communicate(timeout=300) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0] * world, "\n".join(error[-3000:] for _, error in outputs)
    return json.loads(outputs[0][0].splitlines()[-1])


@pytest.mark.parametrize(
    ("kind", "way"),
    [
        ("fp32", [(2, 2), (1, 3), (2, 1)]),
        ("bf16", [(2, 3), (1, 2)]),
        ("schedulefree", [(2, 2), (1, 3)]),
    ],
)
def test_other_ranks_and_stages_go_on_as_if_nothing_had_changed(tmp_path, kind, way):
    """(ranks, ZeRO stage) after (ranks, ZeRO stage), two steps each, against one rank that takes them all."""
    undisturbed = run(1, 2, kind, STEPS * len(way), tmp_path / "undisturbed")
    losses, source = [], []
    for number, (ranks, stage) in enumerate(way):
        found = run(ranks, stage, kind, STEPS, tmp_path / str(number), *source)
        assert found["wrong"] == []
        assert found["steps"] == STEPS * (number + 1)
        assert found["reference"] == pytest.approx(undisturbed["reference"], abs=1e-6 if kind != "bf16" else 1e-2)
        losses += found["losses"]
        source = [tmp_path / str(number), ranks]
    assert losses == pytest.approx(undisturbed["losses"], abs=1e-5 if kind != "bf16" else 2e-2)


def test_a_run_goes_on_with_other_ranks(train, tiny, tmp_path):
    """Two ranks, then one under ZeRO 3, then two again; with a reference, and with the average that is saved."""
    flags = ["--ckpt.save_steps", "1", "--ref.refresh", "interval", "--ref.interval", "2", "--rpg.beta", "0.01"]
    flags += ["--train.enable_ema", "--train.ema_beta", "0.5", "--train.full_determinism_enable"]
    flags += ["--train.num_episodes", "2", "--train.batch_size", "64"]
    two = ["--actor.num_gpus_per_node", "2", "--ref.num_gpus_per_node", "2"]
    weights = []
    for rollouts, ranks in ((3, two), (4, ["--ds.zero_stage", "3"]), (5, two)):
        run = train(*flags, *ranks, "--train.max_rollouts", str(rollouts))
        assert run.returncode == 0, run.output
        weights.append(load_file(tmp_path / "run" / "model" / "model.safetensors"))
        if rollouts == 3:
            check_average(tiny[0], tmp_path / "run" / "checkpoints" / ACTOR, weights[0])
    assert "--ds.zero_stage: 3 in the checkpoint, 2 from here on" in run.output
    assert [step["step"] for step in run.metrics] == [1, 2, 3, 4, 5]
    assert all("ref/kl_start" in step for step in run.metrics)
    assert all(step["actor_grad_norm"] > 0 for step in run.metrics)
    assert all(not torch.equal(weights[0][name], weights[2][name]) for name in weights[0])


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
