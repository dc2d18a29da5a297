"""`--train.async_enable` with RPG on the real stack: behaviour log-probs, staleness, evaluation, stop and resume."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration import ledger
from tests.integration.test_equal_runs import numbers

FLAGS = ("--train.async_enable", "--train.max_rollouts", "6", "--train.num_episodes", "3")


def test_rollouts_are_drawn_while_the_policy_trains(train, tiny):
    run = train(
        *FLAGS, "--eval.dataset", str(tiny[1].with_name("heldout.jsonl")), "--eval.steps", "3", "--rpg.beta", "0.01"
    )
    assert run.returncode == 0, run.output
    assert "engines draw up to 1 rollout ahead of training" in run.output
    assert "vLLM's own log-probs of its samples" in run.output
    assert len(run.metrics) == 6
    staleness = [step["async/staleness"] for step in run.metrics]
    assert staleness[:3] == [0, 1, 1]
    assert max(staleness) == 1, "an evaluation may let the engines catch up"
    for step in run.metrics:
        assert step["policy/importance_weight_mean"] == pytest.approx(1, abs=0.2)
        assert step["actor_grad_norm"] > 0
    assert [row["step"] for row in run.reports("eval")] == [3, 6]


def test_a_stopped_run_trains_on_every_prompt_once(train):
    """What was drawn ahead at the stop is drawn again: the prompts of an episode are trained on once each."""
    flags = (*FLAGS, "--ckpt.save_steps", "1", "--ckpt.max_num", "9", "--train.async_queue_size", "2")
    first = train(*flags, "--train.max_rollouts", "2", name="run")
    assert first.returncode == 0, first.output
    rest = train(*flags, name="run")
    assert rest.returncode == 0, rest.output
    assert ledger.problems_of(rest.run_dir.parent, 6) == []
    assert all(0 <= step["async/staleness"] <= 2 for step in rest.metrics)


def test_a_queue_of_none_is_the_synchronous_trainer(train):
    """To the bit, in every number that is no clock."""
    flags = ("--train.full_determinism_enable", "--rpg.old_policy", "rollout", "--rpg.beta", "0.01")
    synchronous = train(*flags, name="synchronous")
    asynchronous = train(*flags, "--train.async_enable", "--train.async_queue_size", "0", name="asynchronous")
    assert "engines draw when training asks" in asynchronous.output
    same = [{k: v for k, v in step.items() if not k.startswith("async/")} for step in numbers(asynchronous)]
    assert same == numbers(synchronous)
    assert [step["async/staleness"] for step in asynchronous.metrics] == [0, 0, 0]


def test_replies_go_on_under_new_weights(train):
    longer = ("--data.max_len", "160", "--rollout.max_new_tokens", "128")  # to generate than to train on
    run = train(*FLAGS, *longer, "--train.partial_rollout_enable", "--rpg.divergence", "rkl", "--rpg.beta", "0.01")
    assert run.returncode == 0, run.output
    assert "replies go on under new weights" in run.output
    assert max(step["async/of_several_policies"] for step in run.metrics) > 0
    for step in run.metrics:
        assert 0 <= step["async/staleness"] <= step["async/staleness_max"] <= 2
        assert step["policy/importance_weight_mean"] == pytest.approx(1, abs=0.2)
        assert step["actor_grad_norm"] > 0


def test_log_probs_of_a_reply_that_paused_are_those_of_its_policies(tmp_path):
    """Each token's of the policy that sampled it, whatever sampled the others; with kept keys, of neither."""
    command = [sys.executable, "-m", "tests.integration.paused_replies", str(tmp_path)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(next(line for line in done.stdout.splitlines() if line.startswith('{"dropped"')))
    assert found["dropped"]["policies apart"] > 0.1
    assert max(found["dropped"]["before"], found["dropped"]["after"]) < 1e-4
    assert found["kept"]["after"] > 0.1
