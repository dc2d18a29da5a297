"""Prompts drawn ahead on the real stack: what is trained on does not depend on what the engines finish first."""

from pathlib import Path

CLOCKS = ("timing/", "tokens_per_second", "time", "rollout/given_back_prompts")
FLAGS = [
    *("--train.full_determinism_enable", "--train.num_episodes", "4", "--algo.dynamic_filtering_enable"),
    *("--reward.remote_url", str(Path(__file__).parent / "parity_reward.py")),
]


def test_one_engine_and_two_train_on_the_same_groups(train):
    """Two engines finish in another order, and are asked for other numbers of prompts."""
    one, two = (train(*FLAGS, "--vllm.num_engines", str(n), name=f"engines{n}") for n in (1, 2))
    for run in (one, two):
        assert run.returncode == 0, run.output
        assert len(run.metrics) == 5, "four episodes of 48 prompts, of which nearly half pass, for rollouts of 16"
        assert all(step["dynamic_filtering_pass_rate"] < 100 for step in run.metrics)
        assert sum(step["rollout/given_back_prompts"] for step in run.metrics) > 0, "and some engine was told to stop"
    assert numbers(one) == numbers(two)


def numbers(run) -> list[dict]:
    return [{name: value for name, value in step.items() if not name.startswith(CLOCKS)} for step in run.metrics]
