"""Runs of one seed that differ in their reference alone: which of them must agree, step by step and to the bit."""

import pytest

UNEQUAL = ("timing/", "tokens_per_second", "time", "ref/")  # clocks, and what only a run with a reference reports
EMA = ("--ref.refresh", "ema", "--ref.mix", "0.3")
UPSTREAM_KL = ("kl", "logprobs_diff")  # logged by upstream's own KL loss, which is there only with a reference model


def numbers(run) -> list[dict]:
    """What the steps of a run decided."""
    assert run.returncode == 0, run.output
    return [
        {name: value for name, value in step.items() if not name.startswith(UNEQUAL) and name not in UPSTREAM_KL}
        for step in run.metrics
    ]


def test_references_of_the_same_run(train, tiny):
    """π_ref = π_old needs no model: a model that is the policy of the rollout changes nothing. Others do."""
    flags = ("--train.full_determinism_enable", "--rpg.beta", "0.1", "--rpg.divergence", "rkl")
    flags += ("--train.dynamic_batch_enable", "--train.max_tokens_per_gpu", "400")
    without = train(*flags, name="without")
    explicit = train(*flags, "--ref.refresh", "interval", "--ref.interval", "1", name="explicit")
    assert len(numbers(without)) == 3
    assert numbers(explicit) == numbers(without)
    assert [step["ref/refresh"] for step in explicit.metrics] == [1, 1, 1]
    assert [step["ref/kl_start"] for step in explicit.metrics] == [0, 0, 0], "equal log-probs, to the bit"
    assert not any("ref/refresh" in step for step in without.metrics)
    assert "whole logits are computed" not in without.log
    fixed = train(*flags, "--ref.refresh", "never", name="fixed")
    assert numbers(fixed)[0] == numbers(without)[0], "the start policy is the first rollout's old policy"
    assert numbers(fixed)[2] != numbers(without)[2]
    follows_the_policy(train(*flags, *EMA, "--ref.model_name_or_path", str(tiny[0]), name="moving"), fixed)


def follows_the_policy(moving, fixed) -> None:
    """A part of the way at every optimizer step: a KL that is smaller than to a fixed reference."""
    assert moving.returncode == 0, moving.output
    assert moving.metrics[0]["ref/kl_start"] == fixed.metrics[0]["ref/kl_start"] == 0
    for still, step in zip(fixed.metrics[1:], moving.metrics[1:], strict=True):
        assert 0 < step["ref/kl_start"] < still["ref/kl_start"]
    records = moving.reports("refresh")
    assert [record["reason"] for record in records] == ["ema"] * 3
    afterwards = [step["ref/kl_start"] for step in moving.metrics[1:]]
    assert [record["kl_after"] for record in records] == [*afterwards, None], "measured with the next rollout"
    assert records[0]["kl_before"] == pytest.approx(moving.metrics[0]["policy/kl_ref_k3"])
    assert not fixed.reports("refresh")
