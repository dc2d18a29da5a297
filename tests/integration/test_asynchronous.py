"""`--train.async_enable` with RPG on the real stack: behaviour log-probs, staleness, evaluation, stop and resume."""

import pytest

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
        assert step["policy/importance_weight_mean"] == pytest.approx(1, abs=0.1)
        assert step["actor_grad_norm"] > 0
    assert [row["step"] for row in run.reports("eval")] == [3, 6]
    assert run.metrics[-1]["reward"] > run.metrics[0]["reward"]


def test_a_stopped_run_trains_on_every_prompt_once(train):
    """What was drawn ahead at the stop is drawn again: the prompts of an episode are trained on once each."""
    flags = (*FLAGS, "--ckpt.save_steps", "1", "--train.async_queue_size", "2")
    first = train(*flags, "--train.max_rollouts", "2", name="run")
    assert first.returncode == 0, first.output
    rest = train(*flags, name="run")
    assert rest.returncode == 0, rest.output
    assert [step["step"] for step in rest.metrics] == [1, 2, 3, 4, 5, 6]
    assert all(0 <= step["async/staleness"] <= 2 for step in rest.metrics)
