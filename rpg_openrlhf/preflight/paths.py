"""Absolute paths for every flag that names a file or folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rpg_openrlhf.problems.prompt_sets import split_names

DIRECTORIES = ("ckpt.output_dir", "ckpt.path", "logger.run_dir", "logger.tensorboard_dir")
PATHS = ("actor.model_name_or_path", "critic.model_name_or_path", "ref.model_name_or_path", "train.agent_func_path")
LISTS = ("reward.model_name_or_path", "reward.remote_url", "data.prompt_dataset", "eval.dataset")


def make_absolute(flags: dict[str, Any]) -> None:
    """Make every path in `v` absolute. Ray's workers may run in another directory than the launcher's."""
    for name in DIRECTORIES:
        flags[name] = flags[name] and str(Path(flags[name]).expanduser().absolute())
    for name in PATHS:
        flags[name] = flags[name] and _absolute(flags[name].strip())
    for name in LISTS:
        parts = split_names(flags[name]) if flags[name] else []
        flags[name] = flags[name] and ",".join(
            _absolute(path) + (f"@{folder}" if folder else "") for path, folder in parts
        )


def _absolute(name: str) -> str:
    """A path that exists here made absolute; a hub id or address as it is."""
    path = Path(name).expanduser()
    return str(path.absolute()) if path.exists() else name
