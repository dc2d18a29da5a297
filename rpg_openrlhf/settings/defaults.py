"""Defaults that depend on other settings: `fill_defaults` before upstream's validation, `settle` after it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import rpg_openrlhf
from rpg_openrlhf.settings import layout, machine, run_names
from rpg_openrlhf.settings.parser import Parsed

REWARD_FUNC = str(Path(rpg_openrlhf.__file__).resolve().parent / "rewards" / "reward_func.py")
SCHEDULE_FREE = "schedulefree"


def fill_defaults(parsed: Parsed) -> None:
    """Fill defaults that depend on other flags into `parsed.values`."""
    flags = parsed.values
    is_rpg = flags["algo.objective"] == "rpg"
    if is_rpg and "algo.advantage.estimator" not in parsed.explicit:
        flags["algo.advantage.estimator"] = "dr_grpo"  # group mean, no division by std: the paper's A = R - b
    if not is_rpg and "ref.refresh" not in parsed.explicit:
        flags["ref.refresh"] = "never"  # upstream has only a fixed reference
    if is_rpg and flags["train.async_enable"]:
        # Engines sample while the policy trains, so they need their own GPUs, and neither side may sleep.
        flags["train.colocate_all"] = flags["vllm.enable_sleep"] = flags["ds.enable_sleep"] = False
        if "rpg.old_policy" not in parsed.explicit:
            flags["rpg.old_policy"] = "rollout"  # the actor is newer than the policy that sampled
    if not (flags["reward.remote_url"] or flags["reward.model_name_or_path"] or flags["train.agent_func_path"]):
        flags["reward.remote_url"] = REWARD_FUNC
    if flags["actor.optim"] == SCHEDULE_FREE and "actor.lr_scheduler" not in parsed.explicit:
        flags["actor.lr_scheduler"] = "constant_with_warmup"  # upstream's default is a cosine
    run_names.fill_defaults(flags, parsed.explicit, parsed.layers)
    if "vllm.enable_prefix_caching" not in parsed.explicit:
        # A group's samples share their prompt. Cache hits depend on timing and change rounding: not deterministic.
        flags["vllm.enable_prefix_caching"] = not flags["train.full_determinism_enable"]
    if "ckpt.path" not in parsed.explicit:  # upstream's default is one folder for all runs
        flags["ckpt.path"] = str(Path(flags["ckpt.output_dir"], "checkpoints"))
    if flags["logger.run_dir"] is None:
        flags["logger.run_dir"] = str(Path(flags["ckpt.output_dir"], "logs"))


def settle(args: SimpleNamespace) -> list[str]:
    """Set what follows from the validated settings (KL, optimizer, platform); return notes to print."""
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
    return _settle_chunked_head(args) + (_settle_cpu(args) if args.platform == "cpu" else _settle_attention(args))


def _settle_attention(args: SimpleNamespace) -> list[str]:
    """Use sdpa without the package flash-attn: transformers masks packed samples by position for sdpa too."""
    if args.ds.attn_implementation != machine.FLASH_ATTENTION or machine.has_flash_attn():
        return []
    args.ds.attn_implementation = "sdpa"
    return [
        "--ds.attn_implementation sdpa: flash-attn is not installed; sdpa is slower on packed samples and takes "
        "memory for their mask"
    ]


def _settle_chunked_head(args: SimpleNamespace) -> list[str]:
    splits = layout.splits_output_layer(args) if args.actor.chunked_head == "auto" else []
    if not splits:
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
