"""The files that a run is made from, by their content: data, rewards, start models."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rpg_openrlhf.problems.prompt_sets import split_names
from rpg_openrlhf.problems.reading import fingerprint

SETS = ("data.prompt_dataset", "eval.dataset")
FILES = ("reward.remote_url", "train.agent_func_path")
MODELS = ("actor.model_name_or_path", "critic.model_name_or_path", "ref.model_name_or_path")


def fingerprints(flags: dict[str, Any]) -> dict[str, str]:
    """ "flag path" -> fingerprint, of every input that is a file or folder here. Hub ids have none."""
    return {f"--{flag} {path}": fingerprint(path) for flag, path in _paths(flags) if path.exists()}


def _paths(flags: dict[str, Any]) -> Iterator[tuple[str, Path]]:
    for flag in SETS:
        yield from ((flag, Path(name)) for name, _ in (split_names(flags[flag]) if flags[flag] else ()))
    for flag in FILES:
        yield from ((flag, Path(name)) for name in (flags[flag] or "").split(",") if name.endswith(".py"))
    yield from ((flag, Path(flags[flag])) for flag in MODELS if flags[flag])
