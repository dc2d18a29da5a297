"""Resume on another number of ranks, under another ZeRO stage: nothing changes but who holds what."""

import json
import signal
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rpg_openrlhf import shards
from rpg_openrlhf.runs import checkpoints
from rpg_openrlhf.runs.checkpoints import ACTOR
from tests.integration import ledger

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


def test_a_stopped_run_goes_on_with_other_ranks(train, tiny, tmp_path):
    """Two ranks, stopped by a kill; then one under ZeRO 3; then two again. All asynchronous.

    With a reference that moves every other rollout, an average that is saved, and an evaluation. What was drawn ahead
    at a stop is drawn again: the prompts of an episode are trained on once each.
    """
    flags = ["--train.async_enable", "--train.num_episodes", "99", "--train.batch_size", "64"]
    flags += ["--ckpt.save_steps", "1", "--ckpt.max_num", "99", "--train.enable_ema", "--train.ema_beta", "0.5"]
    flags += ["--ref.refresh", "interval", "--ref.interval", "2", "--rpg.beta", "0.01"]
    flags += ["--eval.dataset", str(tiny[1].with_name("heldout.jsonl")), "--eval.steps", "5"]
    two = ["--actor.num_gpus_per_node", "2", "--ref.num_gpus_per_node", "2"]
    stopped = train(*flags, *two, until=(signal.SIGTERM, 4))
    assert "engines sample up to 1 rollout ahead of training" in stopped.output
    assert "vLLM's own log-probs of its samples" in stopped.output
    folder = tmp_path / "run" / "checkpoints" / ACTOR
    check_average(tiny[0], folder)
    weights = [load_file(tiny[0] / "model.safetensors")]
    held = checkpoints.newest(folder.parent).step
    last = held + 5
    for rollouts, ranks in ((held + 1, ["--ds.zero_stage", "3"]), (last, two)):
        run = train(*flags, *ranks, "--train.max_rollouts", str(rollouts))
        assert run.returncode == 0, run.output
        weights.append(load_file(tmp_path / "run" / "model" / "model.safetensors"))
        for name, average in average_at(folder / f"global_step{rollouts}").items():
            assert torch.equal(weights[-1][name].flatten(), average.to(weights[-1][name].dtype))
    assert "--ds.zero_stage: 3 in the checkpoint, 2 from here on" in run.output
    assert [step["step"] for step in run.metrics] == list(range(1, last + 1))
    assert ledger.problems_of(tmp_path / "run", last) == []
    staleness = [step["async/staleness"] for step in run.metrics]
    assert staleness[:3] == [0, 1, 1]
    assert max(staleness) == 1, "an evaluation may let the engines catch up"
    assert [step["ref/refresh"] for step in run.metrics] == [float(step % 2 == 0) for step in range(1, last + 1)]
    for step in run.metrics:
        assert "ref/kl_start" in step
        assert step["policy/importance_weight_mean"] == pytest.approx(1, abs=0.2)
        assert step["actor_grad_norm"] > 0
    assert [row["step"] for row in run.reports("eval")] == list(range(5, last + 1, 5))
    for earlier, later in pairwise(weights):
        assert all(not torch.equal(earlier[name], later[name]) for name in earlier)


def average_at(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Weights of the average of a checkpoint, flat."""
    held = shards.read(checkpoint, "average")
    return {
        name: torch.cat([piece.values for piece in sorted(pieces, key=lambda piece: piece.start)])
        for name, pieces in held.items()
    }


def check_average(start: Path, folder: Path) -> None:
    """Half of the average before and half of the policy, after each of three steps."""
    expected = {name: weight.float() for name, weight in load_file(start / "model.safetensors").items()}
    for step in (1, 2, 3):
        file = folder / f"global_step{step}" / "mp_rank_00_model_states.pt"
        policy = torch.load(file, weights_only=False)["module"]
        expected = {name: 0.5 * weight + 0.5 * policy[name].float() for name, weight in expected.items()}
    held = average_at(folder / "global_step3")
    for name, weight in expected.items():
        torch.testing.assert_close(held[name], weight.flatten(), atol=1e-6, rtol=1e-6)
    assert any(not torch.equal(held[name].to(policy[name].dtype), policy[name].flatten()) for name in expected)
