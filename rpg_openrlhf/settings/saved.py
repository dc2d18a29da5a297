"""All flags as a layer that reproduces the run with --config, for config.yaml and the loggers."""

from __future__ import annotations

from typing import Any

import yaml

from rpg_openrlhf.settings.layers import nest
from rpg_openrlhf.settings.reference_checks import OURS
from rpg_openrlhf.settings.run_settings import Settings

SECRET, RUN_NAME = "logger.wandb.key", "logger.wandb.run_name"


def resolved(s: Settings, run_name: str | None = None) -> dict[str, Any]:
    """All flags, nested, without the W&B key and flags that the objective refuses. `run_name`: a resumed run's own."""
    refused = (
        ("algo.kl.", "critic.")
        if s.algo.objective == "rpg"
        else ("rpg.", *(name for name in OURS if name != "ref.refresh"))
    )
    shown = {k: v for k, v in s.flags.items() if k != SECRET and not k.startswith(refused)}
    # Leave out values that follow from other flags: in a layer they would count as given by the user.
    if shown.get("actor.eps_clip_low_high"):
        shown.pop("actor.eps_clip")
    for name in {"ds.attn_implementation", "ref.refresh"} - s.explicit:
        shown.pop(name, None)
    return nest(shown | ({RUN_NAME: run_name} if run_name else {}))


def as_yaml(nested: dict[str, Any]) -> str:
    """The resolved flags as YAML text."""
    return yaml.safe_dump(nested, sort_keys=False)
