"""Rules: a rule is a function of all settings that returns the text of a refusal, or None if it does not apply."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from rpg_openrlhf.errors import Refusal
from rpg_openrlhf.settings.run_settings import Settings

Check = Callable[[Settings], str | None]


def rule(when: Callable[[Settings], Any], text: str) -> Check:
    """Rule that refuses with `text` if `when` is true. {rpg.beta} in the text is replaced by that flag's value."""
    return lambda s: text.format_map({**vars(s), "plan": s.plan}) if when(s) else None


def where(applies: Callable[[Settings], Any], *rules: Check) -> Check:
    """Apply several rules under one condition."""
    return lambda s: first(rules, s) if applies(s) else None


def first(rules: Iterable[Check], settings: Settings) -> str | None:
    return next((text for check in rules if (text := check(settings))), None)


def enforce(rules: Iterable[Check], settings: Settings) -> None:
    """Raise the first refusal."""
    if text := first(rules, settings):
        raise Refusal(text)
