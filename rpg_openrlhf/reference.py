"""When the KL's anchor π_ref moves: numbers in, a decision and its reason out. An actor moves the weights.

Section 5 of https://arxiv.org/abs/2505.17508: "every K optimizer steps, or when a moving average of token-level KL
exceeds a target κ". Steps are counted and averages taken over rollouts, since the log-probs of π_ref that a rollout is
trained with are those of its making: a reference that moved meanwhile would act from the next rollout on.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

Refresh = Literal["rollout", "interval", "kl", "ema", "never"]
DEFAULT_KL_DECAY = 0.9


class Decision(NamedTuple):
    refresh: bool  # move the reference now, before the next rollout
    reason: str | None  # interval, kl or ema; None when it stays
    kl_average: float  # of KL(π_θ‖π_ref) since the last refresh, this rollout's included
    steps_since_refresh: int  # optimizer steps, this rollout's included


class RefreshSchedule:
    """The rule, which never changes, and what it has seen since the reference last moved."""

    def __init__(
        self,
        refresh: Refresh,
        interval: int | None = None,
        kl_target: float | None = None,
        kl_decay: float | None = None,
        min_interval: int | None = None,
    ):
        """As `--ref.*`; ValueError where an argument is out of range or its mode has no use for it."""
        _check(refresh, interval, kl_target, kl_decay, min_interval)
        self.refresh, self.interval, self.kl_target = refresh, interval, kl_target
        self.kl_decay = DEFAULT_KL_DECAY if kl_decay is None else kl_decay
        self.min_interval = min_interval or 0
        self.refreshes = 0
        self._start_anew()

    def _start_anew(self) -> None:
        """An average of KLs to another reference would say nothing about the new one."""
        self.steps_since_refresh = 0
        self.weighted_kl = self.weight = 0.0

    @property
    def kl_average(self) -> float:
        """Σ decay^age · KL / Σ decay^age: the first rollout after a refresh counts whole, not one part in ten."""
        return self.weighted_kl / self.weight if self.weight else 0.0

    def update(self, kl: float, optimizer_steps: int) -> Decision:
        """What to do after a rollout: its mean token-level KL(π_θ‖π_ref), and how many optimizer steps it took."""
        if math.isnan(kl):
            raise ValueError("KL to the reference is not a number: the policy has diverged")
        if optimizer_steps < 0:
            raise ValueError(f"optimizer_steps must be at least 0; got {optimizer_steps}")
        self.steps_since_refresh += optimizer_steps
        self.weighted_kl = self.kl_decay * self.weighted_kl + kl
        self.weight = self.kl_decay * self.weight + 1.0
        reason = self._reason()
        decision = Decision(reason is not None, reason, self.kl_average, self.steps_since_refresh)
        if reason:
            self.refreshes += 1
            self._start_anew()
        return decision

    def _reason(self) -> str | None:
        if self.steps_since_refresh == 0:  # nothing was learnt: the policy has not moved either
            return None
        if self.refresh == "ema":
            return "ema"
        cooled_down = self.steps_since_refresh >= self.min_interval  # until then the average goes on
        if self.kl_target is not None and self.kl_average > self.kl_target and cooled_down:
            return "kl"
        if self.interval is not None and self.steps_since_refresh >= self.interval:
            return "interval"
        return None

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs, as plain JSON; the rule itself is the configuration's."""
        names = ("steps_since_refresh", "weighted_kl", "weight", "refreshes")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict()`, also under another rule: counts and averages mean the same under each."""
        self.steps_since_refresh, self.refreshes = int(state["steps_since_refresh"]), int(state["refreshes"])
        self.weighted_kl, self.weight = float(state["weighted_kl"]), float(state["weight"])


def first_rollout_of(steps: int, steps_per_rollout: int) -> int:
    """The rollout after which `steps` optimizer steps have been taken: when an interval first acts."""
    return -(-steps // steps_per_rollout)


def _check(
    refresh: str, interval: int | None, kl_target: float | None, kl_decay: float | None, min_interval: int | None
) -> None:
    if refresh not in ("rollout", "interval", "kl", "ema", "never"):
        raise ValueError(f"refresh must be rollout, interval, kl, ema or never; got {refresh!r}")
    given = {"interval": interval, "kl_target": kl_target, "kl_decay": kl_decay, "min_interval": min_interval}
    used = {"interval": {"interval"}, "kl": set(given)}.get(refresh, set())
    needed = {"interval": "interval", "kl": "kl_target"}.get(refresh)
    for name, value in given.items():
        if value is not None and name not in used:
            raise ValueError(f"{name} {value} cannot act with refresh {refresh}")
        if value is None and name == needed:
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
