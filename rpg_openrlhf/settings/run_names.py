"""Default names of a run in W&B and TensorBoard, from its layers; and a check of the W&B mode and key."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from rpg_openrlhf.settings.parser import Layer

METHOD = ("algo.objective", "algo.advantage.estimator", "rpg.divergence", "rpg.gradient_estimator")
MODES, SHORTEST_KEY = ("online", "offline", "disabled"), 40
LONGEST = {"group": 128, "tag": 64}  # W&B's limits, in characters
# Layers that do not distinguish a run from the runs it is compared with.
NOT_IN_GROUP = ("base", "hardware")


def refused_by_wandb(key: str | None, environ: Mapping[str, str] = os.environ) -> str | None:
    """Refuse a W&B mode or key that W&B would refuse only after the engines have started. Never print the key."""
    mode = environ.get("WANDB_MODE") or "online"
    if not key:
        return None
    if mode not in MODES:
        return f"--logger.wandb.key: WANDB_MODE={mode} must be one of {', '.join(MODES)}"
    netrc = Path(environ.get("NETRC") or "~/.netrc").expanduser()  # where `wandb login` leaves one
    if mode == "online" and len(key) < SHORTEST_KEY and not (environ.get("WANDB_API_KEY") or netrc.exists()):
        return (
            f"--logger.wandb.key: has {len(key)} characters, and W&B's keys have {SHORTEST_KEY} or more; give the "
            "complete key, or set WANDB_MODE to offline or disabled"
        )
    return None


WANDB = (lambda s: refused_by_wandb(s.logger.wandb.key),)


def fill_defaults(flags: dict[str, Any], explicit: set[str], layers: tuple[Layer, ...]) -> None:
    """Fill `--logger.wandb.run_name` and `--logger.wandb.group` if they were not given."""
    if "logger.wandb.run_name" not in explicit:
        now = datetime.now().strftime("%m%dT%H:%M")
        flags["logger.wandb.run_name"] = f"{algorithm(flags, layers)}_seed{flags['train.seed']}_{now}"
    if flags["logger.wandb.group"] is None:
        parts = [tag.rpartition("/")[2] for tag in tags(layers) if tag.partition("/")[0] not in NOT_IN_GROUP]
        flags["logger.wandb.group"] = "+".join(parts or [algorithm(flags, layers)])[: LONGEST["group"]]


def algorithm(flags: dict[str, Any], layers: tuple[Layer, ...]) -> str:
    """Name of the layer from `configs/algorithm/`; without one, or if flags changed its method, a name from flags."""
    for layer in reversed(layers):
        if Path(layer.path).absolute().parent.name == "algorithm":
            if all(flags[name] == layer.flags[name] for name in METHOD if name in layer.flags):
                return Path(layer.path).stem
            break
    if flags["algo.objective"] != "rpg":
        return flags["algo.advantage.estimator"]
    estimator = "reinforce_" if flags["rpg.gradient_estimator"] == "reinforce" else ""
    return f"rpg_{estimator}{flags['rpg.divergence']}"


def tags(layers: tuple[Layer, ...]) -> list[str]:
    """One tag per layer, in order: `base`, `model/qwen3_4b`, `algorithm/grpo`; a file outside configs/ by its name."""
    names = []
    for path in (Path(layer.path) for layer in layers):
        folder = path.absolute().parent
        names.append(f"{folder.name}/{path.stem}" if folder.parent.name == "configs" else path.stem)
    return list(dict.fromkeys(tag[: LONGEST["tag"]] for tag in names))
