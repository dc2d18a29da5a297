"""Schedule of the KL's anchor π_ref: numbers in, a decision and its reason out. Actors move the weights.

Section 5 of https://arxiv.org/abs/2505.17508: "every K optimizer steps, or when a moving average of token-level KL
exceeds a target κ". The schedule decides once per rollout, because the log-probs of π_ref are computed when a rollout
is made. A reference that moved in between would have no effect until the next rollout.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

DEFAULT_KL_DECAY = 0.9


class Rule(NamedTuple):
    """One value of `--ref.refresh`; RULES holds them all."""

    describe: Callable[[SimpleNamespace], str]  # the `--ref.*` arguments in words, for the banner
    reason: Callable[[RefreshSchedule], str | None]  # why the reference moves after this rollout; None: it stays
    uses: frozenset[str] = frozenset()  # arguments that have an effect; any other is refused
    needs: tuple[str, str] | None = None  # an argument without default, and an example of its value
    holds_weights: bool = True  # False: π_ref = π_old, so there is nothing to hold


class Decision(NamedTuple):
    refresh: bool  # move the reference now, before the next rollout
    reason: str | None  # interval, kl or ema; None when it stays
    kl_average: float  # of KL(π_θ‖π_ref) since the last refresh, this rollout's included
    steps_since_refresh: int  # optimizer steps, this rollout's included


class RefreshSchedule:
    """A rule, which never changes, and its counters since the reference last moved."""

    def __init__(
        self,
        refresh: str,
        interval: int | None = None,
        kl_target: float | None = None,
        kl_decay: float | None = None,
        min_interval: int | None = None,
    ):
        """Take the arguments of `--ref.*`. Raise ValueError if one is out of range or unused by this mode."""
        _check(refresh, interval, kl_target, kl_decay, min_interval)
        self.refresh, self.interval, self.kl_target = refresh, interval, kl_target
        self.kl_decay = DEFAULT_KL_DECAY if kl_decay is None else kl_decay
        self.min_interval = min_interval or 0
        self.refreshes = 0
        self._reset()

    def _reset(self) -> None:
        """Reset the counters: KLs to the previous reference say nothing about the new one."""
        self.steps_since_refresh = 0
        self.weighted_kl = self.weight = 0.0

    @property
    def kl_average(self) -> float:
        """Σ decay^age · KL / Σ decay^age: normalized, so the first rollout after a refresh counts fully."""
        return self.weighted_kl / self.weight if self.weight else 0.0

    def update(self, kl: float, optimizer_steps: int) -> Decision:
        """Decide after a rollout, from its mean token-level KL(π_θ‖π_ref) and its number of optimizer steps."""
        if math.isnan(kl):
            raise ValueError("KL to the reference is not a number: the policy has diverged")
        if optimizer_steps < 0:
            raise ValueError(f"optimizer_steps must be at least 0; got {optimizer_steps}")
        self.steps_since_refresh += optimizer_steps
        self.weighted_kl = self.kl_decay * self.weighted_kl + kl
        self.weight = self.kl_decay * self.weight + 1.0
        # Without an optimizer step the policy has not moved.
        reason = RULES[self.refresh].reason(self) if self.steps_since_refresh else None
        decision = Decision(reason is not None, reason, self.kl_average, self.steps_since_refresh)
        if reason:
            self.refreshes += 1
            self._reset()
        return decision

    def state_dict(self) -> dict[str, Any]:
        """State for a resumed run, as plain JSON; the rule itself is in the configuration."""
        names = ("steps_since_refresh", "weighted_kl", "weight", "refreshes")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict()`, also under another rule: counts and averages mean the same under each."""
        self.steps_since_refresh, self.refreshes = int(state["steps_since_refresh"]), int(state["refreshes"])
        self.weighted_kl, self.weight = float(state["weighted_kl"]), float(state["weight"])


def rollouts_for(steps: int, steps_per_rollout: int) -> int:
    """Number of rollouts until `steps` optimizer steps are done, rounded up: an interval has its first effect then."""
    return -(-steps // steps_per_rollout)


def _check(
    refresh: str, interval: int | None, kl_target: float | None, kl_decay: float | None, min_interval: int | None
) -> None:
    if refresh not in RULES:
        raise ValueError(f"refresh must be {', '.join(list(RULES)[:-1])} or {list(RULES)[-1]}; got {refresh!r}")
    rule = RULES[refresh]
    settings = {"interval": interval, "kl_target": kl_target, "kl_decay": kl_decay, "min_interval": min_interval}
    for name, value in settings.items():
        if value is not None and name not in rule.uses:
            raise ValueError(f"{name} {value} cannot act with refresh {refresh}")
        if value is None and rule.needs and rule.needs[0] == name:
            raise ValueError(f"refresh {refresh} needs {name}")
    for name, steps in (("interval", interval), ("min_interval", min_interval)):
        if steps is not None and steps < 1:
            raise ValueError(f"{name} must be at least 1; got {steps}")
    if kl_target is not None and not 0 < kl_target < math.inf:  # written so that NaN fails, here and below
        raise ValueError(f"kl_target must be finite and above 0; got {kl_target}")
    if kl_decay is not None and not 0 <= kl_decay < 1:
        raise ValueError(f"kl_decay must be at least 0 and below 1; got {kl_decay}")
    if interval is not None and min_interval is not None and min_interval > interval:
        raise ValueError(f"min_interval {min_interval} must be at most interval {interval}, which comes first")


def _at_interval(schedule: RefreshSchedule) -> str | None:
    due = schedule.interval is not None and schedule.steps_since_refresh >= schedule.interval
    return "interval" if due else None


def _at_kl(schedule: RefreshSchedule) -> str | None:
    # During the cool-down the average is updated, but the reference does not move.
    cooled_down = schedule.steps_since_refresh >= schedule.min_interval
    if schedule.kl_target is not None and schedule.kl_average > schedule.kl_target and cooled_down:
        return "kl"
    return _at_interval(schedule)


def _describe_copies(ref: SimpleNamespace) -> str:
    when = [f"every {ref.interval} optimizer steps"] if ref.interval else []
    if ref.kl_target is not None:
        cool_down = f", not within {ref.min_interval} optimizer steps" if ref.min_interval else ""
        when.append(f"when the average KL passes {ref.kl_target:g}{cool_down}")
    how = "the policy" if ref.mix in (None, 1) else f"{ref.mix:g} of the policy"
    reset = ", its moments cleared" if ref.reset_optimizer else ""
    return f", then {how} {' or '.join(when)}{reset}"


_COPY = frozenset({"interval", "mix", "reset_optimizer", "model_name_or_path"})

RULES: dict[str, Rule] = {
    "rollout": Rule(
        describe=lambda ref: "the old policy, refreshed at every rollout (no reference model)",
        reason=lambda schedule: None,
        holds_weights=False,
    ),
    "interval": Rule(_describe_copies, _at_interval, uses=_COPY, needs=("interval", "20")),
    "kl": Rule(
        _describe_copies,
        _at_kl,
        uses=_COPY | {"kl_target", "kl_decay", "min_interval"},
        needs=("kl_target", "0.01"),
    ),
    "ema": Rule(
        describe=lambda ref: f", then {ref.mix:g} of the policy mixed in at every optimizer step",
        reason=lambda schedule: "ema",
        uses=frozenset({"mix", "model_name_or_path"}),
        needs=("mix", "0.01"),
    ),
    "never": Rule(
        describe=lambda ref: ", fixed",
        reason=lambda schedule: None,
        uses=frozenset({"model_name_or_path"}),
    ),
}
