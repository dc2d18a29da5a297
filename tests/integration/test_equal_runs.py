"""Runs that must agree, step by step and to the bit."""

UNEQUAL = ("timing/", "tokens_per_second", "time", "ref/")  # clocks, and what only a run with a reference reports
UPSTREAM_KL = ("kl", "logprobs_diff")  # logged by upstream's own KL loss, which is there only with a reference model


def numbers(run) -> list[dict]:
    """What the steps of a run decided."""
    assert run.returncode == 0, run.output
    return [
        {name: value for name, value in step.items() if not name.startswith(UNEQUAL) and name not in UPSTREAM_KL}
        for step in run.metrics
    ]


def test_no_reference_equals_one_refreshed_at_every_rollout(train):
    """π_ref = π_old needs no model: a model that is the policy of the rollout changes nothing."""
    flags = ("--train.full_determinism_enable", "--rpg.beta", "0.1", "--rpg.divergence", "rkl")
    without = train(*flags, name="without")
    explicit = train(*flags, "--ref.refresh", "interval", "--ref.interval", "1", name="explicit")
    assert len(numbers(without)) == 3
    assert numbers(explicit) == numbers(without)
    assert [step["ref/refresh"] for step in explicit.metrics] == [1, 1, 1]
    assert [step["ref/kl_start"] for step in explicit.metrics] == [0, 0, 0], "equal log-probs, to the bit"
    assert not any("ref/refresh" in step for step in without.metrics)
    whole = train(*flags, "--actor.chunked_head", "off", name="whole")
    for name in ("entropy_loss", "actor_grad_norm", "policy/kl_old_k3"):  # of the same samples, in bf16
        assert abs(numbers(whole)[0][name] / numbers(without)[0][name] - 1) < 1e-4, name
    assert "whole logits are computed" not in without.log
    fixed = train(*flags, "--ref.refresh", "never", name="fixed")
    assert numbers(fixed)[0] == numbers(without)[0], "the start policy is the first rollout's old policy"
    assert numbers(fixed)[2] != numbers(without)[2]
