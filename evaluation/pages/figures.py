"""The report's pictures: panels drawn once, put into PNG files in grids and into the page one by one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from evaluation.pages.folders import Run
from evaluation.store import naming

# Told apart by people who see fewer colours too; the page gives each a lighter twin for dark screens.
PALETTE = ("#2166ac", "#d9741a", "#3a8f5c", "#7b5aa6", "#b0476d", "#1c8ca8", "#8a6d1f", "#5b6472")
RIGHT, WRONG = PALETTE[0], PALETTE[1]
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


@dataclass(frozen=True)
class Panel:
    """One picture of a `group`; `alt` says in words what it shows. `keys` are the (label, line) of the legend."""

    group: str
    title: str
    alt: str
    draw: Callable[[Axes], None]
    keys: tuple[tuple[str, "Line"], ...] = ()
    height: float = SIZE[1]


@dataclass(frozen=True)
class Line:
    """Style of a run's line, the same in every panel."""

    color: str
    dash: str


def line_of(number: int) -> Line:
    """Colours first, then dashes: 32 runs look different."""
    return Line(PALETTE[number % len(PALETTE)], DASHES[number // len(PALETTE) % len(DASHES)])


def figure_of(panel: Panel) -> Figure:
    """A panel alone, for the page."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(SIZE[0], panel.height), layout="constrained")
        _finish(axes, panel)
        return figure


def write_pngs(panels: Sequence[Panel], folder: Path) -> list[Path]:
    """One PNG for each group of panels, at most three in a row."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
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
        paths.append(path)
    return paths


def _grid(panels: list[Panel]) -> Figure:
    across = min(3, len(panels))
    down = -(-len(panels) // across)
    with plt.rc_context(STYLE):
        size = (SIZE[0] * across, max(panel.height for panel in panels) * down)
        figure, grid = plt.subplots(down, across, figsize=size, layout="constrained", squeeze=False)
        for axes, panel in zip(grid.flat, panels, strict=False):
            _finish(axes, panel)
        for axes in grid.flat[len(panels) :]:
            axes.set_axis_off()
        keys = dict(key for panel in panels for key in panel.keys)
        if len(keys) > 1:
            handles = [Line2D([], [], color=line.color, linestyle=line.dash) for line in keys.values()]
            labels = [label[:60] for label in keys]
            figure.legend(handles, labels, loc="outside lower left", ncols=max(1, min(len(labels), 2 * across)))
        return figure


def _finish(axes: Axes, panel: Panel) -> None:
    axes.set_title(panel.title)
    panel.draw(axes)
    if not axes.has_data():
        axes.text(0.5, 0.5, "no data in these runs", transform=axes.transAxes, ha="center", va="center", color=INK)
        axes.grid(False)
        axes.set(xticks=[], yticks=[])


def score_panel(title: str, rows: Sequence[tuple[str, dict, Line]]) -> Panel:
    """(label, score, line) a row: the mean, a thick bar from run to run, a thin one over problems."""

    def draw(axes: Axes) -> None:
        for place, (label, score, line) in enumerate(reversed(rows)):
            axes.plot([score["low"], score["high"]], [place, place], color=line.color, linewidth=1.4)
            if score.get("run_low") is not None:
                axes.plot([score["run_low"], score["run_high"]], [place] * 2, color=line.color, linewidth=5, alpha=0.5)
            axes.plot([score["value"]], [place], "o", color=line.color, markersize=6)
            # Above the bar, where a long name costs the picture no width.
            axes.annotate(_short(label), (0, place), (0, 7), "data", "offset points")
            axes.annotate(f"{score['value']:.3f}", (1, place), (0, 7), "data", "offset points", ha="right")
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.5, len(rows) - 0.2), yticks=[])
        axes.spines["left"].set_visible(False)
        axes.grid(False, axis="y")

    texts = [f"{label} {score['value']:.3f}" for label, score, _ in rows]
    return Panel("scores", title, f"mean score, {title}: {', '.join(texts)}", draw, height=0.9 + 0.42 * len(rows))


def _short(label: str) -> str:
    return label if len(label) <= 40 else f"{label[:26]}…{label[-13:]}"


def pass_panel(benchmark: str, title: str, runs: Sequence[Run], lines: dict[str, Line]) -> Panel:
    """pass@k against k with its band over problems; verl's best@k dotted where there is one run."""
    shown = [run for run in runs if run.benchmarks.get(benchmark, {}).get("pass@k")]

    def draw(axes: Axes) -> None:
        ks: set[int] = set()
        for run in shown:
            scores_of_run, line = run.benchmarks[benchmark], lines[run.label]
            scores = {int(k): score for k, score in scores_of_run["pass@k"].items()}
            ks |= set(scores)
            _band(axes, sorted(scores), [scores[k] for k in sorted(scores)], line, 0.14 if len(shown) < 4 else 0.06)
            best = {int(k): score["value"] for k, score in (scores_of_run.get("best@k") or {}).items()}
            if len(shown) == 1 and best:
                axes.plot(sorted(best), [best[k] for k in sorted(best)], color=PALETTE[1], linestyle=":")
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_locator(FixedLocator(sorted(ks)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.set(xlabel="k", ylim=(-0.02, 1.04))

    keys = [(run.label, lines[run.label]) for run in shown]
    if len(shown) == 1:
        keys = [("pass@k, unbiased", lines[shown[0].label]), ("verl best@k", Line(PALETTE[1], ":"))]
    texts = [_ends_text(run, benchmark) for run in shown]
    return Panel("pass_at_k", title, f"pass@k on {title}: {'; '.join(texts) or 'no data'}", draw, tuple(keys))


def _ends_text(run: Run, benchmark: str) -> str:
    scores = run.benchmarks[benchmark]["pass@k"]
    last = max(scores, key=int)
    return f"{run.label} {scores['1']['value']:.3f} at 1 and {scores[last]['value']:.3f} at {last}"


def _band(axes: Axes, xs: Sequence[float], scores: Sequence[dict], line: Line, alpha: float) -> None:
    low, high = ([score[end] for score in scores] for end in ("low", "high"))
    if all(value is not None for value in (*low, *high)):
        axes.fill_between(xs, low, high, color=line.color, alpha=alpha, linewidth=0)
    marker = "o" if len(xs) < 12 else None
    values = [score["value"] for score in scores]
    axes.plot(xs, values, color=line.color, linestyle=line.dash, marker=marker, markersize=4)


def length_panel(title: str, right: Sequence[int], wrong: Sequence[int], limit: int | None) -> Panel:
    """Tokens of right and of wrong responses; a mark where responses were cut off."""
    top = max([*right, *wrong, 1])
    cut = limit is not None and limit <= top * 1.5

    def draw(axes: Axes) -> None:
        edges = [top * step / 32 for step in range(33)]
        for values, color in ((wrong, WRONG), (right, RIGHT)):
            if values:
                axes.hist(values, bins=edges, color=color, alpha=0.5, linewidth=0)
                axes.hist(values, bins=edges, color=color, histtype="step", linewidth=1.4)
        if limit is not None and cut:
            axes.axvline(limit, color=INK, linewidth=1.2, linestyle=":")
            axes.annotate(
                "limit", (limit, 0.97), (-3, 0), ("data", "axes fraction"), "offset points", ha="right", va="top"
            )
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.set(xlabel="tokens", ylabel="samples")

    alt = f"response length, {title}: median {_middle(right)} tokens where correct, {_middle(wrong)} where not"
    return Panel("lengths", title, alt, draw, (("correct", Line(RIGHT, "-")), ("not correct", Line(WRONG, "-"))))


def _middle(values: Sequence[int]) -> str:
    return str(sorted(values)[len(values) // 2]) if values else "no"
