"""Rules: a rule is a function of all settings that returns the text of a refusal, or None if it does not apply.

Settings are nested: `s.rpg.beta` is `--rpg.beta`. They also contain `s.plan`, the numbers that follow from the flags
(layout.py); `s.explicit`, the flags that the user gave; and `s.dry_run`.
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
    """Flags by dotted name -> settings by attribute, with their plan. Check ranges first: the plan divides."""

    def section(tree: dict[str, Any]) -> Settings:
        return Settings(**{key: section(value) if isinstance(value, dict) else value for key, value in tree.items()})

    settings = section(nest(flags))
    settings.plan = layout.plan(settings)
    return settings


def rule(when: Callable[[Settings], Any], text: str) -> Check:
    """Rule that refuses with `text` if `when` is true. {rpg.beta} in the text is replaced by that flag's value."""
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
