"""Panels, drawn in grids for PNG files, and one by one as SVG for the page."""

import html
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from evaluation.store import naming

# Distinct also for colour-blind readers; the page has a lighter variant of each for dark screens.
PALETTE = ("#2166ac", "#d9741a", "#3a8f5c", "#7b5aa6", "#b0476d", "#1c8ca8", "#8a6d1f", "#5b6472")
INK, EDGE, GRID = "#1f2933", "#9ca3af", "#e5e7eb"
DASHES = ("-", "--", ":", "-.")
SIZE = (4.4, 2.9)  # inches of one panel: at 360 CSS pixels its smallest letters are 11 pixels high
STYLE = {
    "font.size": 10.5, "axes.titlesize": 11.5, "axes.titleweight": "bold", "axes.titlelocation": "left",
    "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": EDGE, "axes.labelcolor": INK,
    "xtick.color": EDGE, "ytick.color": EDGE, "xtick.labelcolor": INK, "ytick.labelcolor": INK, "text.color": INK,
    "axes.grid": True, "grid.color": GRID, "grid.linewidth": 0.8, "axes.axisbelow": True, "legend.frameon": False,
    "legend.fontsize": 10, "lines.linewidth": 1.8, "svg.fonttype": "none", "text.parse_math": False,
    "xtick.labelsize": 10.5, "ytick.labelsize": 10.5,
}  # fmt: skip
# Style properties that become attributes, as the page's policy forbids inline styles. `font` is split up.
ATTRIBUTES = {
    "fill", "stroke", "stroke-width", "stroke-dasharray", "stroke-dashoffset", "stroke-linecap", "stroke-linejoin",
    "opacity", "fill-opacity", "stroke-opacity", "text-anchor", "font-size", "font-weight",
}  # fmt: skip
VARIABLES = {INK: "var(--ink)", EDGE: "var(--edge)", GRID: "var(--grid)"}
VARIABLES |= {color: f"var(--c{number})" for number, color in enumerate(PALETTE)}


class Line(NamedTuple):
    """Style of a run's line, the same in every panel."""

    color: str
    dash: str


@dataclass(frozen=True)
class Panel:
    """One picture of a `group`; `alt` describes it in words. `keys` are the (label, line) of the legend."""

    group: str
    title: str
    alt: str
    draw: Callable[[Axes], None]
    keys: Sequence[tuple[str, Line]] = ()
    height: float = SIZE[1]


def line_of(number: int) -> Line:
    """Style of line `number`: colours vary first, then dashes, so that 32 runs look different."""
    return Line(PALETTE[number % len(PALETTE)], DASHES[number // len(PALETTE) % len(DASHES)])


def figure_of(panel: Panel) -> Figure:
    """Figure of one panel without a legend, which the page has."""
    return _grid([panel], legend=False)


def write_pngs(panels: Sequence[Panel], folder: Path) -> None:
    """Write one PNG for each group of panels, with at most three in a row."""
    folder.mkdir(parents=True, exist_ok=True)
    for group, same in groupby(panels, key=lambda panel: panel.group):
        members = list(same)
        path = folder / f"{group}.png"
        partial = path.with_name(f".{path.name}.partial")
        figure = _grid(members)
        try:
            with naming(path):
                figure.savefig(partial, dpi=130, format="png", facecolor="white")
                partial.replace(path)
        finally:
            plt.close(figure)
            partial.unlink(missing_ok=True)


def _grid(panels: list[Panel], legend: bool = True) -> Figure:
    across = min(3, len(panels))
    down = -(-len(panels) // across)
    with plt.rc_context(STYLE):
        size = (SIZE[0] * across, max(panel.height for panel in panels) * down)
        figure, grid = plt.subplots(down, across, figsize=size, layout="constrained", squeeze=False)
        for axes, panel in zip(grid.flat, panels, strict=False):
            axes.set_title(panel.title)
            panel.draw(axes)
            if not axes.has_data():
                center = {"transform": axes.transAxes, "ha": "center", "va": "center", "color": INK}
                axes.text(0.5, 0.5, "no data in these runs", **center)
                axes.grid(False)
                axes.set(xticks=[], yticks=[])
        for axes in grid.flat[len(panels) :]:
            axes.set_axis_off()
        keys = dict(key for panel in panels for key in panel.keys)
        if legend and len(keys) > 1:
            handles = [Line2D([], [], color=line.color, linestyle=line.dash) for line in keys.values()]
            labels = [label[:60] for label in keys]
            figure.legend(handles, labels, loc="outside lower left", ncols=max(1, min(len(labels), 2 * across)))
        return figure


def inline(figure: Figure, name: str, alt: str) -> str:
    """SVG element of a figure, which is closed. `name` makes its ids differ from other figures' ids."""
    out = io.StringIO()
    with plt.rc_context(STYLE | {"svg.hashsalt": name, "svg.id": None}):
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    plt.close(figure)
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r' style="([^"]*)"', lambda match: _attributes(match[1]), text)
    text = re.sub(
        r' id="(?:figure|axes|patch|line2d|text|xtick|ytick|matplotlib|FillBetween|PolyColl)[^"]*"', "", text
    )
    # Only the viewBox is kept: the page sets the size.
    box = re.search(r'viewBox="([^"]*)"', text)
    assert box is not None
    head = f'<svg viewBox="{box[1]}" role="img" aria-label="{html.escape(alt, quote=True)}">'
    return re.sub(r"\n\s*", "\n", head + text[text.index(">") + 1 :]).strip()


def _attributes(style: str) -> str:
    attributes = []
    for part in html.unescape(style).split(";"):
        key, _, value = (piece.strip() for piece in part.partition(":"))
        if key == "font":
            size = re.search(r"([\d.]+)px", value)
            attributes += [("font-size", size[1])] if size else []
            attributes += [("font-weight", "700")] if re.match(r"(bold|700)\b", value) else []
        elif key in ATTRIBUTES:
            attributes.append((key, VARIABLES.get(value, value)))
    return "".join(f' {key}="{html.escape(value, quote=True)}"' for key, value in attributes)
