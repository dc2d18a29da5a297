"""Generator of docs/flags.md, from the parser."""

from __future__ import annotations

import argparse
import re

from rpg_openrlhf.settings import parser as flags
from rpg_openrlhf.settings import upstream
from rpg_openrlhf.settings.own_flags import FLAGS

HEAD = f"""# All flags

All flags of the launcher with their defaults and help texts, grouped by their first word. Flags in **bold** belong to
this project, all others to OpenRLHF {upstream.VERSION}. [configuration.md](configuration.md) explains how they work
together. `python -m rpg_openrlhf.commands.flag_reference` generates this page, and a test compares it with the parser.
"""


def reference() -> str:
    """Text of docs/flags.md."""
    ours = {flag.name for flag in FLAGS} | set(flags.LAUNCHER_ONLY)
    sections: dict[str, list[str]] = {}
    for name, action in sorted(flags.by_flag(flags.build_parser()).items()):
        if name != "help":
            section, dot, _ = name.partition(".")
            shown = f"**`--{name}`**" if name in ours else f"`--{name}`"
            text = re.sub(r"\s*\(default: [^()]*\)$", "", action.help or "")
            row = f"| {shown} | {_value(action)} | {_default(name, action)} | {_cell(text)} |"
            sections.setdefault(section if dot else "", []).append(row)
    lines = [HEAD.rstrip()]
    for section, rows in sorted(sections.items()):
        title = f"`--{section}.*`" if section else "Without a section"
        lines += ["", f"## {title}", "", "| flag | value | default | meaning |", "|---|---|---|---|", *rows]
    return "\n".join(lines) + "\n"


def _value(action: argparse.Action) -> str:
    if action.nargs == 0:
        return "switch"
    if action.choices:
        return ", ".join(map(str, action.choices))
    kind = getattr(action.type, "__name__", "str")
    return f"{kind} ({action.nargs})" if action.nargs else kind


def _default(name: str, action: argparse.Action) -> str:
    if name == "logger.wandb.run_name":
        return "method, seed and time"
    value = ("on" if action.default else "") if action.nargs == 0 else action.default
    return "" if value is None else " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("%%", "%").replace("<", "&lt;")


if __name__ == "__main__":
    print(reference(), end="")
