"""Runs that must agree, step by step and to the bit."""

from pathlib import Path

UNEQUAL = ("timing/", "tokens_per_second", "time")  # clocks
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
    entry = (str(Path(__file__).parent / "explicit_reference.py"),)
    explicit = train(*flags, "--ref.refresh", "never", name="explicit", entry=entry)
    assert len(numbers(without)) == 3
    assert numbers(explicit) == numbers(without)
    assert "ReferenceActor" not in without.log
    assert "MovableReference" in explicit.log
    fixed = train(*flags, "--ref.refresh", "never", name="fixed")
    assert numbers(fixed)[0] == numbers(without)[0], "the start policy is the first rollout's old policy"
    assert numbers(fixed)[2] != numbers(without)[2]
