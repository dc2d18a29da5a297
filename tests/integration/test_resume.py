"""Killed and started again: every later number equals that of a run that nobody disturbed."""

import random
from itertools import pairwise

from rpg_openrlhf.reference.schedule import RefreshSchedule
from rpg_openrlhf.runs import checkpoints
from tests import logged_keys
from tests.integration.killer import WRITING, Killed, numbers, rows, weights_are_equal

RULE = {"kl_target": 0.18, "interval": 6, "kl_decay": 0.5}
FLAGS = [
    *("--train.full_determinism_enable", "--train.num_episodes", "6", "--data.max_samples", "40"),
    *("--ckpt.save_steps", "1", "--ckpt.max_num", "2", "--rpg.beta", "0.01", "--rpg.divergence", "rkl"),
    *("--rpg.old_policy", "rollout"),
    *("--ref.refresh", "kl", "--ref.reset_optimizer", "--ref.offload"),
    *(part for name, value in RULE.items() for part in (f"--ref.{name}", str(value))),
]


def test_killed_and_resumed_equals_undisturbed(tiny, tmp_path):
    """A rank in the middle of a checkpoint, then the engine: started again by itself. The supervisor: by its user.

    Who now has the asynchronous trainer with a queue of none, which is the synchronous one.

    Fifteen rollouts are six episodes, two and a half in each: every second episode fills what the one before has left.
    """
    whole, killed = (Killed(*tiny, tmp_path / name, FLAGS) for name in ("whole", "killed"))
    for run in (whole, killed):
        run.out.mkdir()
    assert whole.run([], random.Random(0), 400) == 0
    check_reference(whole.out)
    victims = [WRITING, "an engine", "the supervisor"]
    said = tmp_path / "killed" / "console.txt"
    queue = ("--train.async_enable", "--train.async_queue_size", "0")
    assert killed.run(victims, random.Random(0), 900, again=queue) == 0, said.read_text()
    assert killed.kills == victims
    assert len(numbers(whole.out)) == 15
    synchronous, rest = (of_trainer(killed.out, asynchronous) for asynchronous in (False, True))
    assert synchronous + without_staleness(rest) == numbers(whole.out)
    assert [step["async/staleness"] for step in rest] == [0] * (15 - len(synchronous))
    assert len(rest) > 1
    assert weights_are_equal(whole.out, killed.out)

    console = said.read_text(encoding="utf-8")
    assert "error: RPGPolicyActor (pid" in console
    assert "error: RPGRolloutActor (pid" in console
    assert "restart 1 of at most 3, from " in console
    assert "engines sample on demand" in console
    resumed = rows(killed.out, "resume")
    assert resumed[-1]["from"].endswith(f"global_step{resumed[-1]['step']}")
    assert len(checkpoints.find(killed.out / "checkpoints")) == 2, "--ckpt.max_num"

    killed.command += queue
    assert killed.run([], random.Random(0), 60) == 0
    assert "this run has already finished: nothing to do" in said.read_text(encoding="utf-8")


def check_reference(out) -> None:
    """By KL or interval, whichever comes first; then the KL begins at what vLLM's log-probs differ from the trainer's.

    To the trainer's own it is 0, to the bit: test_equal_runs.py.
    """
    steps, moved = rows(out, "train"), rows(out, "refresh")
    schedule = RefreshSchedule("kl", **RULE)
    decisions = [schedule.update(step["policy/kl_ref_k3"], 2) for step in steps]
    assert [step["ref/refresh"] for step in steps] == [float(d.refresh) for d in decisions]
    assert [step["ref/kl_average"] for step in steps] == [d.kl_average for d in decisions]
    assert [step["policy/optimizer_steps"] for step in steps] == [2] * 15
    expected = [(s["step"], d.reason) for s, d in zip(steps, decisions, strict=True) if d.refresh]
    assert [(record["step"], record["reason"]) for record in moved] == expected
    assert 2 <= len(moved) < 15, "sometimes, and not always"
    for step, following in pairwise(steps):
        assert (following["ref/kl_start"] < 1e-3) == bool(step["ref/refresh"])
    assert all(record["kl_after"] in (0, None) and record["kl_before"] > 0 for record in moved)
    assert "reference moved after step" in (out / "console.txt").read_text(encoding="utf-8")
    keys = {key for step in steps for key in step}
    logged_keys.check(keys, *("RPG", "entropy", "group", "score", "grader", "reference", "refresh", "replaced"))


def of_trainer(out, asynchronous: bool) -> list[dict]:
    return [step for step in numbers(out) if ("async/staleness" in step) == asynchronous]


def without_staleness(steps: list[dict]) -> list[dict]:
    return [{k: v for k, v in step.items() if not k.startswith("async/")} for step in steps]
