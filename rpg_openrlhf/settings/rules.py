"""The form of a rule: a function of all settings that returns the text of a refusal, or None where it does not apply.

Settings are nested: `s.rpg.beta` is `--rpg.beta`. Beside the flags they have `s.plan` (layout.py), the numbers that
follow from them; `s.explicit`, the flags that the user gave; and `s.dry_run`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

from rpg_openrlhf.errors import Refusal
from rpg_openrlhf.settings import layout
from rpg_openrlhf.settings.layers import nest

Settings = SimpleNamespace
Check = Callable[[Settings], str | None]


def nested(flags: dict[str, Any]) -> Settings:
    """Flags by dotted name -> settings by attribute, with their plan. Numbers must be in their ranges."""

    def section(tree: dict[str, Any]) -> Settings:
        return Settings(**{key: section(value) if isinstance(value, dict) else value for key, value in tree.items()})

    settings = section(nest(flags))
    settings.plan = layout.plan(settings)
    return settings


def rule(when: Callable[[Settings], Any], text: str) -> Check:
    """Refuse with `text`, in which {rpg.beta} stands for that flag's value, where `when` is true."""
    return lambda s: text.format_map(vars(s)) if when(s) else None


def where(applies: Callable[[Settings], Any], *rules: Check) -> Check:
    """Apply several rules under one condition."""
    return lambda s: first(rules, s) if applies(s) else None


def first(rules: Iterable[Check], settings: Settings) -> str | None:
    return next((text for check in rules if (text := check(settings))), None)


def enforce(rules: Iterable[Check], settings: Settings) -> None:
    """Raise the first refusal."""
    if text := first(rules, settings):
        raise Refusal(text)
