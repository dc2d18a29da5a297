"""Nested arguments for upstream's `train(args)`: its own validation, then what follows from the validated settings."""

from __future__ import annotations

import argparse
from types import SimpleNamespace

from rpg_openrlhf.settings import layout, machine, upstream
from rpg_openrlhf.settings.defaults import SCHEDULE_FREE
from rpg_openrlhf.settings.run_settings import Settings


def arguments(s: Settings) -> tuple[SimpleNamespace, list[str]]:
    """Settings -> upstream's nested args, with the launcher's own settings applied, and notes to print."""
    args, notes = upstream.validate(argparse.Namespace(**{**s.flags, "platform": s.platform}))
    args.num_gpus = layout.gpus_needed(args)
    args.rpg.on_policy = layout.is_on_policy(args) and args.rpg.old_policy == "recompute"
    splits = layout.splits_output_layer(args)
    notes += _settle_chunked_head(args, splits)
    _settle_objective(args)
    return args, notes + (_settle_cpu(args) if args.platform == "cpu" else _settle_attention(args))


def _settle_objective(args: SimpleNamespace) -> None:
    """Set the trainer, the place of the KL and the optimizer's schedule."""
    # An asynchronous RPG run uses upstream's synchronous trainer; a thread samples ahead of it.
    args.train.asynchronous = args.train.async_enable and args.algo.objective == "rpg"
    args.train.async_enable = args.train.async_enable and not args.train.asynchronous
    if args.algo.objective == "rpg":
        # Upstream builds a reference group if init_coef > 0, and keeps its log-probs if use_loss is set. RPG needs no
        # group, because the policy's actors hold the reference, and RPG's loss contains the KL.
        args.algo.kl.init_coef = 0
        args.algo.kl.use_loss = args.ref.refresh != "rollout"
    elif args.ref.refresh == "rollout":
        # The KL loss is to the policy that sampled, whose log-probs exist already, so no group is needed. The trainer
        # and the actors read the coefficient from ref.kl_to_old.
        args.ref.kl_to_old, args.algo.kl.init_coef = args.algo.kl.init_coef, 0
    if args.actor.optim == SCHEDULE_FREE:
        # The optimizer does the warm-up itself (training/schedule_free.py says why).
        args.actor.lr_warmup_ratio = 0.0 if args.actor.lr_scheduler == "constant" else args.actor.lr_warmup_ratio
        args.actor.lr_scheduler = "constant"


def _settle_attention(args: SimpleNamespace) -> list[str]:
    """Use sdpa without the package flash-attn: transformers masks packed samples by position for sdpa too."""
    if args.ds.attn_implementation != machine.FLASH_ATTENTION or machine.has_flash_attn():
        return []
    args.ds.attn_implementation = "sdpa"
    return [
        "--ds.attn_implementation sdpa: flash-attn is not installed; sdpa is slower on packed samples and takes "
        "memory for their mask"
    ]


def _settle_chunked_head(args: SimpleNamespace, splits: list[str]) -> list[str]:
    """Turn --actor.chunked_head auto off beside the flags `splits`, with which whole logits are computed."""
    if args.actor.chunked_head != "auto" or not splits:
        return []
    args.actor.chunked_head = "off"
    return [f"--actor.chunked_head is off: --{splits[0]} needs whole logits"]


def _settle_cpu(args: SimpleNamespace) -> list[str]:
    notes = []
    args.vllm.enforce_eager = True
    if args.vllm.sync_backend == "nccl":  # upstream's default
        args.vllm.sync_backend = "shm"
    if args.ds.attn_implementation not in ("sdpa", "eager"):
        # Upstream requires flash_attention for packed samples, but transformers masks them correctly for sdpa too.
        args.ds.attn_implementation = "sdpa"
    for section, name in ((args.vllm, "vllm"), (args.ds, "ds")):
        if section.enable_sleep:
            section.enable_sleep = False
            notes.append(f"--{name}.enable_sleep is off: on the CPU platform there is no device memory to free")
    return notes
