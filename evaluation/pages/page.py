"""report.html: one file that needs no network; its policy allows only its own script and style."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from evaluation.pages.figures import PALETTE, Panel, figure_of, inline
from evaluation.pages.folders import Run
from evaluation.pages.heat_map import HeatMap
from evaluation.pages.sample_browser import Carried, script_json
from evaluation.pages.table import Table

TEMPLATES = Path(__file__).with_name("templates")
LONG_TEXT = 4_000  # characters of one setting
DASHES = {"-": "none", "--": "6 4", ":": "2 3", "-.": "7 3 2 3"}
GROUPS = ("panels", "scores", "pass_at_k", "lengths")


@dataclass(frozen=True)
class Content:
    """Content of the page, in display order."""

    title: str
    verdict: str
    warnings: Sequence[str]
    tables: Sequence[Table]  # under the verdict
    details: Sequence[Table]  # longer tables, folded
    comparisons: Sequence[Table]
    panels: Sequence[Panel]
    heat_maps: Sequence[HeatMap]
    carried: Carried
    runs: Sequence[Run]  # whose settings are shown


def render(content: Content) -> str:
    """Draw the figures and return the page as text."""
    loader = FileSystemLoader(TEMPLATES)
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    style, script = ((TEMPLATES / name).read_text(encoding="utf-8") for name in ("style.css", "page.js"))
    text = environment.get_template("report.html").render(
        content=content,
        policy=_policy(style, script),
        style=Markup(style),
        script=Markup(script),
        data=Markup(script_json(content.carried.data)),
        figures=_figures(content.panels),
        provenance=[(run.label, _flat(run)) for run in content.runs],
        kept_heads=_kept_heads,
    )
    # A lone surrogate cannot be written as UTF-8, and HTML has no NUL.
    return text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode("utf-8")


def _policy(style: str, script: str) -> str:
    """Content policy: only these two texts, by hash; no network, eval, inline handler or inserted HTML."""
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (script, style)]
    return (
        f"default-src 'none'; script-src 'sha256-{hashes[0]}'; style-src 'sha256-{hashes[1]}'; img-src data:; "
        "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    )


def _figures(panels: Sequence[Panel]) -> list[dict[str, Any]]:
    """Legend and pictures of each group."""
    groups = []
    for group in GROUPS:
        members = [panel for panel in panels if panel.group == group]
        lines = dict(key for panel in members for key in panel.keys)
        legend = [(label, f"var(--c{PALETTE.index(line.color)})", DASHES[line.dash]) for label, line in lines.items()]
        pictures = [Markup(inline(figure_of(p), f"{group}{number}", p.alt)) for number, p in enumerate(members)]
        if members:
            groups.append({"name": group, "legend": legend if len(legend) > 1 else [], "pictures": pictures})
    return groups


def _kept_heads(table: Table) -> tuple[list[int], bool]:
    """Indices of the shown labels, and True if rows are grouped under their first label, the benchmark.

    A run's name that all rows share is not shown.
    """
    heads = list(range(len(table.heads)))
    if len(heads) == 1:
        return heads, False
    alone = len({labels[1] for labels, _ in table.rows}) == 1
    return ([0, *heads[2:]], False) if alone else (heads[1:], True)


def _flat(run: Run) -> list[tuple[str, str]]:
    """Settings and provenance as (dotted name, text)."""
    rows: list[tuple[str, str]] = []

    def walk(name: str, value: Any) -> None:
        if isinstance(value, Mapping) and value:
            for key, inner in value.items():
                walk(f"{name}.{key}" if name else str(key), inner)
        else:
            text = ", ".join(map(str, value)) if isinstance(value, list | dict) else str(value)
            text = "none" if value is None else text or "none"
            rows.append((name, text if len(text) <= LONG_TEXT else f"{text[:LONG_TEXT]} …"))

    walk("", {"folder": run.folder.name, **run.results["settings"], "provenance": run.results.get("provenance")})
    return rows
