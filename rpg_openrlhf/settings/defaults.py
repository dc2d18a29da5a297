"""Defaults that depend on other flags, and absolute paths: the parsed flags become the run's settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import rpg_openrlhf
from rpg_openrlhf.settings import machine, run_names
from rpg_openrlhf.settings.parser import Parsed
from rpg_openrlhf.settings.paths import make_absolute
from rpg_openrlhf.settings.run_settings import Settings, nested

REWARD_FUNC = str(Path(rpg_openrlhf.__file__).resolve().parent / "rewards" / "reward_func.py")
SCHEDULE_FREE = "schedulefree"


def complete(parsed: Parsed) -> Settings:
    """Parsed flags -> the run's settings, which nothing changes afterwards."""
    flags = dict(parsed.values)
    _fill(flags, parsed.explicit)
    run_names.fill_defaults(flags, parsed.explicit, parsed.layers)
    make_absolute(flags)
    return nested(
        flags,
        platform=machine.resolve_platform(flags["platform"]),
        explicit=frozenset(parsed.explicit),
        tags=tuple(run_names.tags(parsed.layers)),
        print_config=parsed.print_config,
        dry_run=parsed.dry_run,
    )


def _fill(flags: dict[str, Any], explicit: set[str]) -> None:
    """Fill defaults that depend on other flags."""
    is_rpg = flags["algo.objective"] == "rpg"
    if is_rpg and "algo.advantage.estimator" not in explicit:
        flags["algo.advantage.estimator"] = "dr_grpo"  # group mean, no division by std: the paper's A = R - b
    if not is_rpg and "ref.refresh" not in explicit:
        flags["ref.refresh"] = "never"  # upstream has only a fixed reference
    if is_rpg and flags["train.async_enable"]:
        # Engines sample while the policy trains, so they need their own GPUs, and neither side may sleep.
        flags["train.colocate_all"] = flags["vllm.enable_sleep"] = flags["ds.enable_sleep"] = False
        if "rpg.old_policy" not in explicit:
            flags["rpg.old_policy"] = "rollout"  # the actor is newer than the policy that sampled
    if not (flags["reward.remote_url"] or flags["reward.model_name_or_path"] or flags["train.agent_func_path"]):
        flags["reward.remote_url"] = REWARD_FUNC
    if flags["actor.optim"] == SCHEDULE_FREE and "actor.lr_scheduler" not in explicit:
        flags["actor.lr_scheduler"] = "constant_with_warmup"  # upstream's default is a cosine
    if "vllm.enable_prefix_caching" not in explicit:
        # A group's samples share their prompt. Cache hits depend on timing and change rounding: not deterministic.
        flags["vllm.enable_prefix_caching"] = not flags["train.full_determinism_enable"]
    if "ckpt.path" not in explicit:  # upstream's default is one folder for all runs
        flags["ckpt.path"] = str(Path(flags["ckpt.output_dir"], "checkpoints"))
    if flags["logger.run_dir"] is None:
        flags["logger.run_dir"] = str(Path(flags["ckpt.output_dir"], "logs"))
