"""A matplotlib figure as SVG within a page that forbids inline styles: attributes only, colours that the page sets."""

import html
import io
import re

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from evaluation.pages.figures import EDGE, GRID, INK, PALETTE, STYLE

# Presentation attributes; `font` is no attribute and is taken apart below.
_KEPT = {
    "fill", "stroke", "stroke-width", "stroke-dasharray", "stroke-dashoffset", "stroke-linecap", "stroke-linejoin",
    "opacity", "fill-opacity", "stroke-opacity", "text-anchor", "font-size", "font-weight",
}  # fmt: skip
_COLORS = {INK: "var(--ink)", EDGE: "var(--edge)", GRID: "var(--grid)"} | {
    color: f"var(--c{number})" for number, color in enumerate(PALETTE)
}


def inline(figure: Figure, name: str, alt: str) -> str:
    """The figure's SVG element, closed afterwards. `name` keeps its ids apart from those of other figures."""
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
    # The viewBox alone sets the shape: the page's width does the rest.
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
        elif key in _KEPT:
            attributes.append((key, _COLORS.get(value, value)))
    return "".join(f' {key}="{html.escape(value, quote=True)}"' for key, value in attributes)
