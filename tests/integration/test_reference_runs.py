"""A run whose reference moves, by KL and interval."""

from itertools import pairwise

from rpg_openrlhf.reference.schedule import RefreshSchedule
from tests import logged_keys


def test_kl_and_interval_move_the_reference(train):
    """Two ranks, ZeRO-3, the reference in host memory: whichever comes first, and the next rollout starts at KL 0."""
    rule = {"kl_target": 0.18, "interval": 6, "kl_decay": 0.5}
    flags = [part for name, value in rule.items() for part in (f"--ref.{name}", str(value))]
    run = train(
        *("--actor.num_gpus_per_node", "2", "--ds.zero_stage", "3", "--train.micro_batch_size", "8"),
        *("--ref.refresh", "kl", *flags, "--ref.reset_optimizer", "--ref.offload", "--train.num_episodes", "3"),
        *("--rpg.beta", "0.01", "--rpg.divergence", "rkl"),
    )
    assert run.returncode == 0, run.output
    schedule = RefreshSchedule("kl", **rule)
    decisions = [schedule.update(step["policy/kl_ref_k3"], 2) for step in run.metrics]
    assert [step["ref/refresh"] for step in run.metrics] == [float(d.refresh) for d in decisions]
    assert [step["ref/kl_average"] for step in run.metrics] == [d.kl_average for d in decisions]
    assert [step["policy/optimizer_steps"] for step in run.metrics] == [2] * 9
    moved = run.reports("refresh")
    expected = [(s["step"], d.reason) for s, d in zip(run.metrics, decisions, strict=True) if d.refresh]
    assert [(record["step"], record["reason"]) for record in moved] == expected
    assert 2 <= len(moved) < 9, "sometimes, and not always"
    for step, following in pairwise(run.metrics):
        assert (following["ref/kl_start"] == 0) == bool(step["ref/refresh"]), (
            "to the bit after a refresh, and only then"
        )
    assert all(record["kl_after"] == 0 < record["kl_before"] for record in moved)
    assert "reference moved after step" in run.output
    keys = {key for step in run.metrics for key in step}
    logged_keys.check(keys, *("RPG", "entropy", "group", "score", "grader", "reference", "refresh", "replaced"))
