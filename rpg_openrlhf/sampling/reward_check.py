"""Checks on what a reward function or server returns. Upstream swallows its errors (openrlhf/utils/agent.py)."""

import math
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from numbers import Real
from typing import Any

import torch

from rpg_openrlhf.errors import NotFinite
from rpg_openrlhf.sampling.samples import Sample


class RewardError(RuntimeError):
    """A reward cannot be used for training. The message names its source and the fault on one line."""


def number_of(value: Any, what: str) -> float:
    """Convert a value that holds one number. Raise ValueError if it does not, NotFinite for NaN and infinity."""
    while isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 1:
        value = value[0]
    if isinstance(value, torch.Tensor) and value.numel() == 1:
        value = value.item()
    if not isinstance(value, Real):
        shape = f" of shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else ""
        raise ValueError(f"{what} must be one number for each sample, not {type(value).__name__}{shape}")
    if not math.isfinite(value):
        raise NotFinite(f"{what} is {float(value)}")
    return float(value)


def check_result(result: Any) -> None:
    """Check the result for one sample: {"rewards": number, "scores": number, "extra_logs": {name: number}}."""
    if not isinstance(result, dict):
        raise ValueError(f'must return a dict with "rewards", not {type(result).__name__}')
    if result.get("rewards") is None:
        raise ValueError('returned no "rewards"')
    number_of(result["rewards"], '"rewards"')
    if result.get("scores") is not None:
        number_of(result["scores"], '"scores"')
    logs = result.get("extra_logs") or {}
    if not isinstance(logs, dict):
        raise ValueError(f'"extra_logs" must be a dict of numbers, not {type(logs).__name__}')
    for name, value in logs.items():
        number_of(value, f'"extra_logs" {name!r}')


class CheckedRewards:
    """Wrapper of the executor's reward fetcher; it keeps the first fault, which upstream would only log."""

    def __init__(self, fetch: Callable[..., Awaitable[list]], source: str):
        self.fetch, self.source = fetch, source
        self.samples = self.failed = 0
        self.fault: str | None = None

    async def __call__(self, queries: list, prompts: list, labels: list) -> list:
        self.samples += len(queries)
        try:
            results = await self.fetch(queries, prompts, labels)
            for result in results:
                check_result(result)
            return results
        except Exception as error:
            self.failed += len(queries)
            self.fault = self.fault or fault_of(error)
            raise

    def raise_fault(self) -> None:
        """Raise RewardError if a sample failed to get a reward."""
        if self.fault:
            raise RewardError(
                f"{self.source}: {self.fault} ({self.failed} of {self.samples} samples so far); fix it, then give the "
                "same command again"
            )


def fault_of(error: Exception) -> str:
    """Describe a reward's error on one line: our own message as it is, a reward function's with its type."""
    text = " ".join(str(error).split())[:200]
    return (
        text
        if type(error) in (ValueError, NotFinite) and text.startswith(('"', "must", "returned"))
        else (f"raised {type(error).__name__}: {text}")
    )


UPSTREAMS = {"reward", "score", "response_clip_ratio"}  # what upstream itself puts into `Experience.info`


def check_logs(samples: Sequence, source: str) -> None:
    """Raise RewardError unless all samples of a rollout have the same extra logs."""
    counts: Counter[str] = Counter()
    for sample in samples:
        logs = sample.logs if isinstance(sample, Sample) else sample.info
        counts.update(logs.keys() - UPSTREAMS)
    for name, count in counts.items():
        if count != len(samples):
            raise RewardError(
                f'{source}: "extra_logs" {name!r} is given for {count} of {len(samples)} samples; give it for all'
            )
