"""Killed and started again: every later number equals that of a run that nobody disturbed."""

import json
import random

from rpg_openrlhf.runs import checkpoints
from tests.integration.killer import WRITING, Killed, numbers, weights_are_equal

FLAGS = [
    *("--train.full_determinism_enable", "--train.num_episodes", "6", "--data.max_samples", "40"),
    *("--ckpt.save_steps", "1", "--ckpt.max_num", "2"),
    *("--ref.refresh", "interval", "--ref.interval", "4", "--rpg.beta", "0.01"),
]


def test_killed_and_resumed_equals_undisturbed(tiny, tmp_path):
    """A rank in the middle of a checkpoint, then the engine: started again by itself. The supervisor: by its user.

    Fifteen rollouts are six episodes, two and a half in each: every second episode fills what the one before has left.
    """
    whole, killed = (Killed(*tiny, tmp_path / name, FLAGS) for name in ("whole", "killed"))
    for run in (whole, killed):
        run.out.mkdir()
    assert whole.run([], random.Random(0), 400) == 0
    victims = [WRITING, "an engine", "the supervisor"]
    said = tmp_path / "killed" / "console.txt"
    assert killed.run(victims, random.Random(0), 900) == 0, said.read_text()
    assert killed.kills == victims
    assert len(numbers(whole.out)) == 15
    assert numbers(killed.out) == numbers(whole.out)
    assert weights_are_equal(whole.out, killed.out)

    console = said.read_text(encoding="utf-8")
    assert "error: RPGPolicyActor (pid" in console
    assert "error: RPGRolloutActor (pid" in console
    assert "restart 1 of at most 3, from " in console
    resumed = [row for row in map(json.loads, metrics(killed.out)) if row["kind"] == "resume"]
    assert resumed[-1]["from"].endswith(f"global_step{resumed[-1]['step']}")
    assert len(checkpoints.find(killed.out / "checkpoints")) == 2, "--ckpt.max_num"

    assert killed.run([], random.Random(0), 60) == 0
    assert "this run has ended well already: nothing to do" in said.read_text(encoding="utf-8")


def metrics(out) -> list[str]:
    return (out / "logs" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
