"""The schedule: whatever KLs and steps come, it moves the reference when its rule says so, and only then."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rpg_openrlhf.reference.schedule import RefreshSchedule, rollouts_for

ROLLOUTS = st.lists(st.tuples(st.floats(0, 10), st.integers(1, 16)), max_size=60)
DECAY = st.floats(0, 0.99)


def decisions(schedule, rollouts):
    return [schedule.update(kl, steps) for kl, steps in rollouts]


@settings(deadline=None)
@given(ROLLOUTS, st.integers(1, 40))
def test_an_interval_counts_optimizer_steps(rollouts, interval):
    """A refresh at the first rollout's end at which K steps have passed since the last one; never two K late."""
    since = 0
    for (_, steps), decision in zip(
        rollouts, decisions(RefreshSchedule("interval", interval=interval), rollouts), strict=True
    ):
        since += steps
        assert decision.steps_since_refresh == since
        assert decision.refresh == (since >= interval)
        assert decision.reason == ("interval" if decision.refresh else None)
        assert since < interval + 16
        since = 0 if decision.refresh else since


@settings(deadline=None)
@given(ROLLOUTS, st.floats(0.01, 5), DECAY)
def test_kl_moves_the_reference_exactly_when_the_average_passes_the_target(rollouts, target, decay):
    """The average is Σ decay^age KL / Σ decay^age over the rollouts since the last refresh."""
    seen = []
    for (kl, _), decision in zip(
        rollouts, decisions(RefreshSchedule("kl", kl_target=target, kl_decay=decay), rollouts), strict=True
    ):
        seen.append(kl)
        weights = [decay**age for age in range(len(seen))]
        average = sum(w * x for w, x in zip(weights, reversed(seen), strict=True)) / sum(weights)
        assert decision.kl_average == pytest.approx(average, rel=1e-9)
        assert min(seen) - 1e-9 <= decision.kl_average <= max(seen) + 1e-9
        assert decision.refresh == (decision.kl_average > target)
        seen = [] if decision.refresh else seen


@settings(deadline=None)
@given(ROLLOUTS, st.floats(0.01, 5), DECAY, st.integers(1, 60))
def test_no_kl_refresh_within_the_cool_down(rollouts, target, decay, least):
    schedule = RefreshSchedule("kl", kl_target=target, kl_decay=decay, min_interval=least)
    for decision in decisions(schedule, rollouts):
        assert decision.refresh == (decision.kl_average > target and decision.steps_since_refresh >= least)


@settings(deadline=None)
@given(ROLLOUTS, st.floats(0.01, 5), st.integers(1, 60))
def test_kl_and_interval_together_are_whichever_comes_first(rollouts, target, interval):
    for decision in decisions(RefreshSchedule("kl", kl_target=target, interval=interval), rollouts):
        by_kl, by_interval = decision.kl_average > target, decision.steps_since_refresh >= interval
        assert decision.reason == ("kl" if by_kl else "interval" if by_interval else None)


@settings(deadline=None)
@given(ROLLOUTS)
def test_the_modes_without_a_rule(rollouts):
    assert not any(d.refresh for d in decisions(RefreshSchedule("never"), rollouts))
    assert all(d.reason == "ema" for d in decisions(RefreshSchedule("ema"), rollouts))


RULES = st.sampled_from(
    [
        {"refresh": "interval", "interval": 7},
        {"refresh": "kl", "kl_target": 0.3, "kl_decay": 0.7, "min_interval": 5},
        {"refresh": "kl", "kl_target": 2.0, "interval": 30},
        {"refresh": "ema"},
        {"refresh": "never"},
    ]
)


@settings(max_examples=200, deadline=None)
@given(RULES, ROLLOUTS, ROLLOUTS)
def test_a_resumed_schedule_decides_as_one_that_was_not_stopped(rule, before, after):
    """Through JSON, to the bit."""
    whole, first, second = (RefreshSchedule(**rule) for _ in range(3))
    expected = decisions(whole, before + after)[len(before) :]
    decisions(first, before)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert decisions(second, after) == expected
    assert second.refreshes == whole.refreshes


def test_a_rollout_without_an_optimizer_step_moves_nothing():
    for rule in ({"refresh": "ema"}, {"refresh": "kl", "kl_target": 0.1}, {"refresh": "interval", "interval": 1}):
        assert not RefreshSchedule(**rule).update(5.0, 0).refresh


def test_what_is_no_number_is_refused():
    schedule = RefreshSchedule("kl", kl_target=0.1)
    with pytest.raises(ValueError, match="diverged"):
        schedule.update(float("nan"), 4)
    with pytest.raises(ValueError, match="optimizer_steps"):
        schedule.update(0.1, -1)
    assert schedule.update(float("inf"), 4).refresh, "past every target"


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ({"refresh": "sometimes"}, "refresh must be"),
        ({"refresh": "interval"}, "needs interval"),
        ({"refresh": "kl"}, "needs kl_target"),
        ({"refresh": "never", "interval": 3}, "interval 3 cannot act"),
        ({"refresh": "interval", "interval": 0}, "interval must be at least 1"),
        ({"refresh": "kl", "kl_target": 0.0}, "kl_target must be finite and above 0"),
        ({"refresh": "kl", "kl_target": float("nan")}, "kl_target must be finite"),
        ({"refresh": "kl", "kl_target": 0.1, "kl_decay": 1.0}, "kl_decay must be"),
        ({"refresh": "kl", "kl_target": 0.1, "interval": 4, "min_interval": 5}, "must be at most interval 4"),
    ],
)
def test_rules_that_cannot_act_are_refused(rule, says):
    with pytest.raises(ValueError, match=says):
        RefreshSchedule(**rule)


def test_when_an_interval_first_acts():
    assert [rollouts_for(k, 4) for k in (1, 4, 5, 8, 9)] == [1, 1, 2, 2, 3]
