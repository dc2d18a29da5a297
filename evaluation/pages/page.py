"""report.html: one file that needs no network, whose policy forbids every script and style but its own."""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from evaluation.pages import heat_map
from evaluation.pages.figures import PALETTE, Line, Panel, figure_of
from evaluation.pages.folders import Run
from evaluation.pages.heat_map import HeatMap
from evaluation.pages.inline_svg import inline
from evaluation.pages.sample_browser import Carried, script_json
from evaluation.pages.table_formats import interval
from evaluation.pages.tables import Cell, Column, Table, marks, shown

TEMPLATES = Path(__file__).with_name("templates")
LONG_TEXT = 4_000  # characters of one setting


@dataclass(frozen=True)
class Content:
    """Everything that the page shows, in the order in which it shows it."""

    title: str
    verdict: str
    warnings: Sequence[str]
    tables: Sequence[Table]  # under the verdict
    details: Sequence[Table]  # the same at length, folded
    comparisons: Sequence[Table]
    comparison_note: str
    panels: Sequence[Panel]
    heat_maps: Sequence[HeatMap]
    carried: Carried
    runs: Sequence[Run]  # whose settings are shown


GROUPS = {
    "panels": ("Against the step", "Bands: 95 % from run to run on the same problems. Dotted levels: single models."),
    "scores": ("Scores with intervals", "Thick: 95 % from run to run on the same problems. Thin: over problems."),
    "pass_at_k": (
        "pass@k",
        "Share of problems that some of k samples solve, unbiased; band: 95 % over problems.",
    ),
    "lengths": ("Response length", "Samples by tokens. A dotted line marks the limit, where responses were cut off."),
}


def render(content: Content) -> str:
    """The page as text. Its figures are drawn here."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = f"{(TEMPLATES / 'style.css').read_text(encoding='utf-8')}\n{heat_map.colors()}\n"
    script = (TEMPLATES / "page.js").read_text(encoding="utf-8")
    text = environment.get_template("report.html").render(
        content=content,
        policy=_policy(style, script),
        style=Markup(style),
        script=Markup(script),
        data=Markup(script_json(content.carried.data)),
        figures=_figures(content.panels),
        provenance=[(run.label, _flat(run)) for run in content.runs],
        view=_view,
        palette=PALETTE,
    )
    # A lone surrogate cannot be written as UTF-8, and HTML has no NUL.
    return text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode("utf-8")


def _policy(style: str, script: str) -> str:
    """No network, no eval, no inline handler, nothing inserted as HTML; only these two texts, by their hashes."""
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (script, style)]
    return (
        f"default-src 'none'; script-src 'sha256-{hashes[0]}'; style-src 'sha256-{hashes[1]}'; img-src data:; "
        "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    )


def _figures(panels: Sequence[Panel]) -> list[dict[str, Any]]:
    """Title, note, legend and pictures of each group."""
    groups = []
    for group, (title, note) in GROUPS.items():
        members = [panel for panel in panels if panel.group == group]
        keys = {label: _swatch(line) for panel in members for label, line in panel.keys}
        pictures = [Markup(inline(figure_of(p), f"{group}{number}", p.alt)) for number, p in enumerate(members)]
        if members:
            legend = list(keys.items()) if len(keys) > 1 else []
            groups.append({"name": group, "title": title, "note": note, "legend": legend, "pictures": pictures})
    return groups


def _swatch(line: Line) -> dict[str, str]:
    dashes = {"-": "none", "--": "6 4", ":": "2 3", "-.": "7 3 2 3"}
    return {"color": f"var(--c{PALETTE.index(line.color)})", "dash": dashes[line.dash]}


def _view(table: Table) -> dict[str, Any]:
    """A table as the template walks over it. Rows of one benchmark stand under its name; a run's name that all rows
    share is left to the caption."""
    spans = [[name, len(list(same))] for name, same in groupby(column.group for column in table.columns)]
    heads, under = list(range(len(table.heads))), False
    if len(heads) > 1:
        alone = len({labels[1] for labels, _ in table.rows}) == 1
        heads, under = ([0, *heads[2:]], False) if alone else (heads[1:], True)
    rows = []
    for (labels, cells), marked in zip(table.rows, marks(table), strict=True):
        texts = [_cell(*parts) for parts in zip(cells, table.columns, marked, strict=True)]
        rows.append({"labels": [labels[head] for head in heads], "cells": texts, "under": labels[0] if under else ""})
    groups = spans if any(name for name, _ in spans) else []
    return {"groups": groups, "heads": [table.heads[head] for head in heads], "rows": rows}


def _cell(cell: Cell, column: Column, mark: str) -> dict[str, str]:
    runs = interval(Cell(cell.value, cell.run_low, cell.run_high), column)
    return {"text": shown(cell, column), "over": interval(cell, column), "runs": runs, "mark": mark}


def _flat(run: Run) -> list[tuple[str, str]]:
    """Settings and provenance as (dotted name, text)."""
    entries = {
        "folder": run.folder.name,
        "settings": run.results["settings"],
        "provenance": run.results.get("provenance"),
    }
    rows: list[tuple[str, str]] = []

    def walk(name: str, value: Any) -> None:
        if isinstance(value, dict) and value:
            for key, inner in value.items():
                walk(f"{name}.{key}" if name and name != "settings" else str(key), inner)
        else:
            text = ", ".join(map(str, value)) if isinstance(value, (list, dict)) else str(value)
            text = "none" if value is None else text or "none"
            rows.append((name, text if len(text) <= LONG_TEXT else f"{text[:LONG_TEXT]} …"))

    walk("", entries)
    return rows
