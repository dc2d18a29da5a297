"""docs/flags.md, generated from the parser."""

from __future__ import annotations

import argparse
import re

from rpg_openrlhf.settings import parser as flags
from rpg_openrlhf.settings import upstream

HEAD = f"""# All flags

Every flag of the launcher with its default and what its own help says, by its first word. Made from the parser by
`python -m rpg_openrlhf.commands.flag_reference`; a test holds this page to it. **Bold**: of this project,
all others are OpenRLHF {upstream.VERSION}'s. What they do together: [configuration.md](configuration.md).
"""


def reference() -> str:
    """The whole page."""
    parser = flags.build_parser()
    ours = {
        action
        for group in parser._action_groups
        if group.title in ("RPG", "launcher")
        for action in group._group_actions
    }
    sections: dict[str, list[str]] = {}
    for name, action in sorted(flags.by_flag(parser).items()):
        if name != "help":
            section, dot, _ = name.partition(".")
            sections.setdefault(section if dot else "", []).append(_row(name, action, action in ours))
    lines = [HEAD.rstrip()]
    for section, rows in sorted(sections.items()):
        title = f"`--{section}.*`" if section else "Without a section"
        lines += ["", f"## {title}", "", "| flag | value | default | meaning |", "|---|---|---|---|", *rows]
    return "\n".join(lines) + "\n"


def _row(name: str, action: argparse.Action, is_ours: bool) -> str:
    shown = f"**`--{name}`**" if is_ours else f"`--{name}`"
    text = re.sub(r"\s*\(default: [^()]*\)$", "", action.help or "")
    return f"| {shown} | {_value(action)} | {_default(name, action)} | {_cell(text)} |"


def _value(action: argparse.Action) -> str:
    if action.nargs == 0:
        return "switch"
    if action.choices:
        return ", ".join(map(str, action.choices))
    kind = getattr(action.type, "__name__", "str")
    return {None: kind}.get(action.nargs, f"{kind} ({action.nargs})")  # pyright: ignore[reportArgumentType]


def _default(name: str, action: argparse.Action) -> str:
    if action.nargs == 0:
        return "on" if action.default else ""
    if name == "logger.wandb.run_name":
        return "method, seed and time"
    value = action.default
    return "" if value is None else " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("%%", "%").replace("<", "&lt;")


if __name__ == "__main__":
    print(reference(), end="")
