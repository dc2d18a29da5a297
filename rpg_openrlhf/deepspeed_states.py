"""Optimizer states and settings inside DeepSpeed: reset, offload to the host, resume, and a fallback for FusedAdam."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

MOMENTS = {"exp_avg", "exp_avg_sq", "max_exp_avg_sq", "step"}
OFFLOADED = "_offload_buffer"  # name suffix of a moment's host buffer (DeepSpeed's runtime/zero/offload_states.py)
# Entries of an optimizer's parameter groups that come from flags; all other entries are state.
SETTINGS = ("lr", "initial_lr", "betas", "eps", "weight_decay", "momentum", "warmup_steps")


def innermost(optimizer: Any) -> torch.optim.Optimizer:
    """The optimizer that holds the moments, below DeepSpeed's wrappers."""
    while hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    return optimizer


def clear_moments(engine: Any) -> None:
    """Reset Adam's moments and the step count of its bias correction, in place on any device.

    The learning rate's schedule continues.
    """
    optimizer = innermost(engine.optimizer)
    for state in optimizer.state.values():
        for name, value in state.items():
            if str(name).endswith(OFFLOADED):
                continue  # a host buffer: it is the moment itself, or the next offload overwrites it
            assert name in MOMENTS, f"{type(optimizer).__name__} holds {name}, which is no moment"
            state[name] = value.zero_() if isinstance(value, torch.Tensor) else 0
    for group in optimizer.param_groups:
        if "step" in group:  # DeepSpeed's FusedAdam counts steps here
            group["step"] = 0


def drop_offload_buffers(engine: Any) -> None:
    """Remove the host buffers of moments from the states, after a checkpoint was loaded.

    A checkpoint that was written while states were offloaded contains these buffers. Loading puts them on the GPU, so
    DeepSpeed would later "offload" to GPU memory.
    """
    for state in innermost(engine.optimizer).state.values():
        for name in [name for name in state if str(name).endswith(OFFLOADED)]:
            del state[name]


def can_be_offloaded(engine: Any) -> bool:
    """True if DeepSpeed can offload the optimizer: ZeRO 3 asserts FusedAdam, ZeRO 0 has no `offload_states`."""
    is_fused = type(innermost(engine.optimizer)).__name__ == "FusedAdam"
    return hasattr(engine.optimizer, "offload_states") and (engine.zero_optimization_stage() != 3 or is_fused)


def where_possible(move: Callable[..., None]) -> Callable[..., None]:
    """Make upstream's offload_deepspeed_states or reload_deepspeed_states skip states that cannot be moved."""

    @functools.wraps(move)
    def moved(engine: Any, *args: Any, **kwargs: Any) -> None:
        if can_be_offloaded(engine):
            move(engine, *args, **kwargs)

    return moved


def with_an_adam_that_exists(config: dict[str, Any], problem: str | None) -> dict[str, Any]:
    """DeepSpeed's configuration, with torch's AdamW if `problem` says why FusedAdam cannot be built."""
    optimizer = config.get("optimizer")
    offloads = config["zero_optimization"].get("offload_optimizer", {}).get("device") == "cpu"
    if problem is None or optimizer is None or offloads or optimizer["type"] not in ("Adam", "AdamW"):
        return config
    params = {**optimizer["params"], "torch_adam": True}
    return {**config, "optimizer": {**optimizer, "params": params}}


def problem_of_fused_adam() -> str | None:
    """Reason why DeepSpeed cannot build FusedAdam here, on one line; None if it can, or if there is no GPU.

    FusedAdam is compiled at first use, which needs nvcc.
    """
    if not torch.cuda.is_available():
        return None
    from deepspeed.ops.op_builder import FusedAdamBuilder  # imported late: the import looks for a compiler

    try:
        FusedAdamBuilder().load(verbose=False)
    except Exception as error:  # a failed build raises many types of error
        return " ".join(f"{type(error).__name__}: {error}".split())[:200]
    return None


def optimizer_settings(engine: Any) -> tuple[list[dict], list[float]]:
    """Settings of each parameter group of a DeepSpeed engine, and its scheduler's base learning rates."""
    groups = [
        {name: group[name] for name in SETTINGS if name in group} for group in engine.basic_optimizer.param_groups
    ]
    return groups, list(getattr(engine.lr_scheduler, "base_lrs", ()))


def restore_optimizer_settings(engine: Any, settings: tuple[list[dict], list[float]]) -> None:
    """Restore the settings that a DeepSpeed engine had before a checkpoint was loaded; keep the loaded moments."""
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
