"""Optimizer states and settings that DeepSpeed keeps: the Adam of a GPU, and states on the host while engines run."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

MOMENTS = {"exp_avg", "exp_avg_sq", "max_exp_avg_sq", "step"}
OFFLOADED = "_offload_buffer"  # DeepSpeed's suffix (runtime/zero/offload_states.py) of a moment's place on the host
# Settings in an optimizer's parameter groups, which flags decide; everything else there is state.
SETTINGS = ("lr", "initial_lr", "betas", "eps", "weight_decay", "momentum", "warmup_steps")


def innermost(optimizer: Any) -> torch.optim.Optimizer:
    """The optimizer that holds the moments, below DeepSpeed's wrappers."""
    while hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    return optimizer


def clear_moments(engine: Any) -> None:
    """Adam as if just made: its moments, and the step count its bias correction goes by. In place, wherever they are.

    The learning rate's schedule continues.
    """
    optimizer = innermost(engine.optimizer)
    for state in optimizer.state.values():
        for name, value in state.items():
            if str(name).endswith(OFFLOADED):
                continue  # a moment's place on the host: it holds the moment itself, or what the next offload replaces
            assert name in MOMENTS, f"{type(optimizer).__name__} holds {name}, which is no moment"
            state[name] = value.zero_() if isinstance(value, torch.Tensor) else 0
    for group in optimizer.param_groups:
        if "step" in group:  # where DeepSpeed's FusedAdam counts
            group["step"] = 0


def drop_offload_buffers(engine: Any) -> None:
    """Forget where moments were offloaded to, after a checkpoint was loaded.

    A checkpoint that was written while states were offloaded holds the buffers too. Loading puts them on the GPU, and
    DeepSpeed would then "offload" into them.
    """
    for state in innermost(engine.optimizer).state.values():
        for name in [name for name in state if str(name).endswith(OFFLOADED)]:
            del state[name]


def can_be_offloaded(engine: Any) -> bool:
    """True where DeepSpeed's `offload_states` takes the optimizer: ZeRO 3 asserts FusedAdam, ZeRO 0 has none."""
    is_fused = type(innermost(engine.optimizer)).__name__ == "FusedAdam"
    return hasattr(engine.optimizer, "offload_states") and (engine.zero_optimization_stage() != 3 or is_fused)


def where_possible(move: Callable[..., None]) -> Callable[..., None]:
    """Upstream's offload_deepspeed_states or its reload_, which does nothing where the states cannot be moved."""

    @functools.wraps(move)
    def moved(engine: Any, *args: Any, **kwargs: Any) -> None:
        if can_be_offloaded(engine):
            move(engine, *args, **kwargs)

    return moved


def with_an_adam_that_exists(config: dict[str, Any], problem: str | None) -> dict[str, Any]:
    """DeepSpeed's configuration, with torch's AdamW in the place of FusedAdam where that cannot be built."""
    optimizer = config.get("optimizer")
    offloads = config["zero_optimization"].get("offload_optimizer", {}).get("device") == "cpu"
    if problem is None or optimizer is None or offloads or optimizer["type"] not in ("Adam", "AdamW"):
        return config
    params = {**optimizer["params"], "torch_adam": True}
    return {**config, "optimizer": {**optimizer, "params": params}}


def problem_of_fused_adam() -> str | None:
    """Reason that DeepSpeed cannot give FusedAdam here, on one line; None where it can, or where there is no GPU.

    It is compiled at first use, which needs nvcc.
    """
    if not torch.cuda.is_available():
        return None
    from deepspeed.ops.op_builder import FusedAdamBuilder  # late: it looks for a compiler while it is imported

    try:
        FusedAdamBuilder().load(verbose=False)
    except Exception as error:  # a compiler's failure comes as whatever its caller made of it
        return " ".join(f"{type(error).__name__}: {error}".split())[:200]
    return None


def optimizer_settings(engine: Any) -> tuple[list[dict], list[float]]:
    """The settings of each parameter group of a DeepSpeed engine, and its scheduler's base learning rates."""
    groups = [
        {name: group[name] for name in SETTINGS if name in group} for group in engine.basic_optimizer.param_groups
    ]
    return groups, list(getattr(engine.lr_scheduler, "base_lrs", ()))


def restore_optimizer_settings(engine: Any, settings: tuple[list[dict], list[float]]) -> None:
    """Give a DeepSpeed engine back the settings it had before a checkpoint was loaded; its moments stay."""
    groups, base_lrs = settings
    for group, saved in zip(engine.basic_optimizer.param_groups, groups, strict=True):
        group.update(saved)
    scheduler = engine.lr_scheduler
    if not base_lrs:
        return
    scheduler.base_lrs = base_lrs
    scheduler._last_lr = [
        base * factor(scheduler.last_epoch) for base, factor in zip(base_lrs, scheduler.lr_lambdas, strict=True)
    ]
    for group, rate in zip(engine.basic_optimizer.param_groups, scheduler._last_lr, strict=True):
        group["lr"] = rate
