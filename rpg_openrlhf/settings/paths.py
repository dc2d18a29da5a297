"""Paths on the command line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rpg_openrlhf.problems.set_names import split_names

DIRECTORIES = ("ckpt.output_dir", "ckpt.path", "logger.run_dir", "logger.tensorboard_dir")
PATHS = ("actor.model_name_or_path", "critic.model_name_or_path", "ref.model_name_or_path", "train.agent_func_path")
LISTS = ("reward.model_name_or_path", "reward.remote_url", "data.prompt_dataset", "eval.dataset")


def make_absolute(flags: dict[str, Any]) -> None:
    """Make every path absolute, in place: Ray's workers may run in another directory than the launcher's."""
    for name in DIRECTORIES:
        flags[name] = flags[name] and str(Path(flags[name]).expanduser().absolute())
    for name in PATHS:
        flags[name] = flags[name] and _absolute(flags[name].strip())
    for name in LISTS:
        parts = [_absolute(path) + (f"@{folder}" if folder else "") for path, folder in split_names(flags[name] or "")]
        flags[name] = flags[name] and ",".join(parts)


def _absolute(name: str) -> str:
    """Make an existing path absolute; return a hub id or an address unchanged."""
    path = Path(name).expanduser()
    return str(path.absolute()) if path.exists() else name


def inputs(flags: Mapping[str, Any]) -> Iterator[tuple[str, Path]]:
    """Flag and path of what a run is made from: problem sets, rewards and start models. A hub id is no path here."""
    for flag in ("data.prompt_dataset", "eval.dataset"):
        yield from ((flag, Path(name)) for name, _ in (split_names(flags[flag]) if flags[flag] else ()))
    for flag in ("reward.remote_url", "train.agent_func_path"):
        yield from ((flag, Path(name)) for name in (flags[flag] or "").split(",") if name.endswith(".py"))
    for flag in ("actor.model_name_or_path", "critic.model_name_or_path", "ref.model_name_or_path"):
        if flags[flag]:
            yield flag, Path(flags[flag])
