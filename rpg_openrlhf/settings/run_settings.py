"""The settings of a run, from the parser to the launch: every flag as an attribute, read-only."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from types import MappingProxyType, SimpleNamespace
from typing import Any

from rpg_openrlhf.settings import layout
from rpg_openrlhf.settings.layers import nest


class Section(SimpleNamespace):
    """Flags that share the beginning of their names: `s.rpg` holds every `--rpg.*`."""

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{name}: settings are complete once they are read")


class Settings(Section):
    """`s.rpg.beta` is `--rpg.beta`; `s.platform` is cpu or cuda, where the flag may say auto."""

    flags: Mapping[str, Any]  # the same values by dotted name
    explicit: frozenset[str]  # names of the flags that the user gave
    tags: tuple[str, ...]  # names of the layers, as loggers show them
    print_config: bool
    dry_run: bool

    @cached_property
    def plan(self) -> layout.Plan:
        """Ranks, samples and steps. Numbers must be in their ranges."""
        return layout.plan(self)


def nested(flags: Mapping[str, Any], **facts: Any) -> Settings:
    """Flags by dotted name -> settings by attribute."""

    def sections(tree: dict[str, Any]) -> dict[str, Any]:
        return {key: Section(**sections(value)) if isinstance(value, dict) else value for key, value in tree.items()}

    none = {"explicit": frozenset(), "tags": (), "print_config": False, "dry_run": False}
    return Settings(**(sections(nest(dict(flags))) | none | {"flags": MappingProxyType(dict(flags))} | facts))
