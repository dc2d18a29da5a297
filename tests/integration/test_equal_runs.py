"""Runs of one seed that differ in engines and reference alone: which must agree, step by step and to the bit."""

import itertools
from pathlib import Path

import pytest

# Clocks; what depends on which engine is faster; what only a run with a reference reports.
UNEQUAL = ("timing/", "tokens_per_second", "time", "rollout/given_back_prompts", "ref/")
UPSTREAM_KL = ("kl", "logprobs_diff")  # logged by upstream's own KL loss, which is there only with a reference model
FLAGS = [
    *("--train.full_determinism_enable", "--rpg.beta", "0.1", "--rpg.divergence", "rkl"),
    *("--rpg.importance_level", "sequence", "--actor.num_gpus_per_node", "2", "--ds.zero_stage", "3"),
    *("--train.dynamic_batch_enable", "--train.max_tokens_per_gpu", "400", "--train.num_episodes", "4"),
    *("--algo.dynamic_filtering_enable", "--reward.remote_url", str(Path(__file__).with_name("parity_reward.py"))),
]


def numbers(run) -> list[dict]:
    """What the steps of a run decided."""
    assert run.returncode == 0, run.output
    return [
        {name: value for name, value in step.items() if not name.startswith(UNEQUAL) and name not in UPSTREAM_KL}
        for step in run.metrics
    ]


def test_engines_and_references_of_the_same_run(train, tiny):
    """Two ranks under ZeRO-3. π_ref = π_old needs no model: one that is the policy of the rollout changes nothing.

    Nor do two engines, which finish prompts in another order and are asked for other numbers of them.
    """
    without = train(*FLAGS, name="without")
    each_rollout = ("--ref.refresh", "interval", "--ref.interval", "1", "--ref.offload")
    explicit = train(*FLAGS, *each_rollout, "--vllm.num_engines", "2", name="explicit")
    assert len(numbers(without)) == 5, "four episodes of 48 prompts, of which nearly half pass, for rollouts of 16"
    assert numbers(explicit) == numbers(without)
    assert [step["ref/refresh"] for step in explicit.metrics] == [1] * 5
    assert [step["ref/kl_start"] for step in explicit.metrics] == [0] * 5, "equal log-probs, to the bit"
    assert not any("ref/refresh" in step for step in without.metrics)
    assert "needs whole logits" not in without.log
    fixed = train(*FLAGS, "--ref.refresh", "never", name="fixed")
    assert numbers(fixed)[0] == numbers(without)[0], "the start policy is the first rollout's old policy"
    assert numbers(fixed)[2] != numbers(without)[2]
    assert fixed.metrics[0]["policy/kl_ref_k3"] == pytest.approx(fixed.metrics[0]["policy/kl_old_k3"])
    assert fixed.metrics[2]["rollout/reward_mean"] == pytest.approx(
        fixed.metrics[2]["return"] + fixed.metrics[2]["reward"], abs=1
    ), "no KL in it"
    assert fixed.metrics[4]["policy/kl_ref_k3"] > 2 * fixed.metrics[4]["policy/kl_old_k3"]
    ema = ("--ref.refresh", "ema", "--ref.mix", "0.3", "--ref.model_name_or_path", str(tiny[0]))
    moving = train(*FLAGS, *ema, name="moving")
    follows_the_policy(moving, fixed)
    for run in (without, explicit, fixed, moving):
        filters_groups(run)


def filters_groups(run) -> None:
    """Some groups are rejected, and some engine is told to stop."""
    for step in run.metrics:
        assert step["dynamic_filtering_pass_rate"] < 100
        assert step["actor_grad_norm"] > 0
    assert sum(step["rollout/given_back_prompts"] for step in run.metrics) > 0


def follows_the_policy(moving, fixed) -> None:
    """A part of the way at every optimizer step: a KL that is smaller than to a fixed reference."""
    assert moving.returncode == 0, moving.output
    assert moving.metrics[0]["ref/kl_start"] == fixed.metrics[0]["ref/kl_start"] == 0
    for still, step in itertools.islice(zip(fixed.metrics, moving.metrics, strict=True), 1, None):
        assert 0 < step["ref/kl_start"] < still["ref/kl_start"]
    records = moving.reports("refresh")
    assert [record["reason"] for record in records] == ["ema"] * 5
    afterwards = [step["ref/kl_start"] for step in moving.metrics[1:]]
    assert [record["kl_after"] for record in records] == [*afterwards, None], "measured with the next rollout"
    assert records[0]["kl_before"] == pytest.approx(moving.metrics[0]["policy/kl_ref_k3"])
    assert not fixed.reports("refresh")
