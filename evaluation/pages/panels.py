"""Panels of a report and of a comparison of methods: curves, scores with intervals, pass@k, response lengths."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from evaluation.pages import training_log
from evaluation.pages.figures import INK, PALETTE, Line, Panel, line_of
from evaluation.pages.folders import Found, Run
from evaluation.pages.methods import Method, runs_of
from evaluation.pages.sample_browser import Lengths
from evaluation.pages.table import title_of
from evaluation.pages.tables import benchmarks_of, largest_k

RUNS = 12  # in one picture
METHOD_PANELS = 6
RIGHT, WRONG = PALETTE[0], PALETTE[1]
UNITS = {"reward": "reward", "entropy": "nats per token", "response length": "tokens", "gradient norm": "norm"}

Scores = Sequence[tuple[float, Mapping]]  # by step, or by k


@dataclass(frozen=True)
class Curve:
    """Values against the step or k, with a band from `low` to `high` that may be empty."""

    label: str
    line: Line
    xs: Sequence[float]
    values: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()

    @property
    def ends(self) -> str:
        """First and last value in words."""
        return f"{self.label} {self.values[0]:.3g} to {self.values[-1]:.3g}" if len(self.values) else ""


def _curve(label: str, line: Line, points: Scores, kind: str = "") -> Curve:
    """Curve of scores of results.json; its band is the interval over problems, or over runs for kind `run_`."""
    xs, values = [x for x, _ in points], [score["value"] for _, score in points]
    low, high = ([score.get(kind + end) for _, score in points] for end in ("low", "high"))
    return Curve(label, line, xs, values, *(() if None in (*low, *high) else (low, high)))


def _draw(axes: Axes, curve: Curve, alpha: float = 0.14, marked: int = 11, **style: float) -> None:
    """Draw a line and its band; a curve of at most `marked` values has a marker at each."""
    if len(curve.low):
        axes.fill_between(curve.xs, curve.low, curve.high, color=curve.line.color, alpha=alpha, linewidth=0)
    if len(curve.xs):
        style |= {"marker": "o"} if len(curve.xs) <= marked else {}
        axes.plot(curve.xs, curve.values, color=curve.line.color, linestyle=curve.line.dash, markersize=4, **style)


def _against_step(axes: Axes, unit: str = "", few: bool = True) -> None:
    """Label the axes; `few` limits the ticks of the y axis, for small panels."""
    axes.set(xlabel="step", ylabel=unit)
    axes.margins(x=0.03 if few else 0.02)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    if few:
        axes.yaxis.set_major_locator(MaxNLocator(5))


def shown_runs(found: Found) -> tuple[Run, ...]:
    """Single models and both ends of each series; only a series' last checkpoint if there are many."""
    return found.ends if len(found.ends) <= RUNS else found.finals


def of_report(
    found: Found, logs: Sequence[Sequence[dict]], lengths: Mapping[str, Mapping[str, Lengths]]
) -> list[Panel]:
    """All panels of a report, those against the step first. `logs` are the training steps of each series."""
    lines = _lines(found)
    runs = shown_runs(found)[:RUNS]
    names = benchmarks_of(runs)
    panels = []
    if found.series:
        trained = benchmarks_of(run for series in found.series for run in series.runs)
        panels += [_benchmark_panel(name, found, logs, lines) for name in trained]
        panels += [_log_panel(key, found, logs, lines) for key in ("reward", "entropy", "response length")]
    if len(runs) == 1:  # one panel with a row per benchmark, else a panel per benchmark
        rows = [(title_of(name), runs[0].benchmarks[name]["mean"], lines[runs[0].label]) for name in names]
        panels.append(score_panel("mean@n", rows))
    else:
        for name in names:
            rows = [(r.label, r.benchmarks[name]["mean"], lines[r.label]) for r in runs if name in r.benchmarks]
            panels.append(score_panel(title_of(name), rows))
    few = runs if len(runs) <= 4 else found.finals[:RUNS]
    panels += [pass_panel(name, few, lines) for name in names]
    return panels + _length_panels(runs if len(runs) * len(names) <= RUNS else found.finals[:RUNS], names, lengths)


def _lines(found: Found) -> dict[str, Line]:
    """Line of each label: a colour per method, dotted for the earlier checkpoints of a series."""
    lines = {run.label: line_of(number) for number, run in enumerate(found.finals)}
    for series in found.series:
        last = lines[series.runs[-1].label]
        lines |= {run.label: Line(last.color, ":") for run in series.runs[:-1]}
    return lines


def _benchmark_panel(name: str, found: Found, logs: Sequence[Sequence[dict]], lines: Mapping[str, Line]) -> Panel:
    """A curve per series; up to three single models as horizontal lines."""
    alone = [run for run in found.runs[:3] if name in run.benchmarks]
    curves = []
    for series, log in zip(found.series, logs, strict=True):
        steps = zip(series.positions(log[-1]["step"] if log else 0), series.runs, strict=True)
        points = [(step, run.benchmarks[name]["mean"]) for step, run in steps if name in run.benchmarks]
        curves.append(_curve(series.label, lines[series.runs[-1].label], points, "run_"))

    def draw(axes: Axes) -> None:
        for run in alone:
            value, color = run.benchmarks[name]["mean"]["value"], lines[run.label].color
            axes.axhline(value, color=color, linestyle=":", linewidth=1.4)
        for curve in curves:
            _draw(axes, curve)
        _against_step(axes)

    texts = []
    for curve in curves:
        points = list(zip(curve.values, curve.xs, strict=True))
        if points:
            first, last = (f"{value:.3f} at step {step:g}" for value, step in (points[0], points[-1]))
            texts.append(f"{curve.label} {first}, {last}")
    keys = [(curve.label, curve.line) for curve in curves]
    keys += [(run.label, Line(lines[run.label].color, ":")) for run in alone]
    return Panel("panels", title_of(name), f"{title_of(name)} against the step: {'; '.join(texts)}", draw, keys)


def _log_panel(key: str, found: Found, logs: Sequence[Sequence[dict]], lines: Mapping[str, Line]) -> Panel:
    curves = [
        Curve(series.label, lines[series.runs[-1].label], *training_log.curve(log, key))
        for series, log in zip(found.series, logs, strict=True)
    ]

    def draw(axes: Axes) -> None:
        for curve in curves:
            _draw(axes, curve, marked=1, linewidth=1.5)
        _against_step(axes, UNITS[key])

    texts = [curve.ends for curve in curves if curve.ends]
    texts += [f"{curve.label} has no data" for curve in curves if not curve.ends]
    return Panel("panels", key.capitalize(), f"{key} against the step: {'; '.join(texts)}", draw)


def score_panel(title: str, rows: Sequence[tuple[str, dict, Line]]) -> Panel:
    """Panel with a row per (label, score, line): the mean, a thick bar over runs, a thin one over problems."""

    def draw(axes: Axes) -> None:
        for place, (label, score, line) in enumerate(reversed(rows)):
            axes.plot([score["low"], score["high"]], [place, place], color=line.color, linewidth=1.4)
            if score.get("run_low") is not None:
                axes.plot([score["run_low"], score["run_high"]], [place] * 2, color=line.color, linewidth=5, alpha=0.5)
            axes.plot([score["value"]], [place], "o", color=line.color, markersize=6)
            # Above the bar, so that a long name does not narrow the plot.
            short = label if len(label) <= 40 else f"{label[:26]}…{label[-13:]}"
            axes.annotate(short, (0, place), (0, 7), "data", "offset points")
            axes.annotate(f"{score['value']:.3f}", (1, place), (0, 7), "data", "offset points", ha="right")
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.5, len(rows) - 0.2), yticks=[])
        axes.spines["left"].set_visible(False)
        axes.grid(False, axis="y")

    texts = [f"{label} {score['value']:.3f}" for label, score, _ in rows]
    return Panel("scores", title, f"mean score, {title}: {', '.join(texts)}", draw, height=0.9 + 0.42 * len(rows))


def pass_panel(benchmark: str, runs: Sequence[Run], lines: Mapping[str, Line]) -> Panel:
    """pass@k against k with its band over problems; for a single run also verl's best@k, dotted."""
    runs = [run for run in runs if run.benchmarks.get(benchmark, {}).get("pass@k")]
    curves, texts = [], []
    for run in runs:
        scores = sorted(
            ((int(k), score) for k, score in run.benchmarks[benchmark]["pass@k"].items()), key=itemgetter(0)
        )
        curves.append(_curve(run.label, lines[run.label], scores))
        texts.append(
            f"{run.label} {scores[0][1]['value']:.3f} at 1 and {scores[-1][1]['value']:.3f} at {scores[-1][0]}"
        )
    keys = [(curve.label, curve.line) for curve in curves]
    best = []
    if len(runs) == 1:
        dotted = Line(PALETTE[1], ":")
        keys = [("pass@k, unbiased", curves[0].line), ("verl best@k", dotted)]
        bests = runs[0].benchmarks[benchmark].get("best@k") or {}
        best = sorted((int(k), score["value"]) for k, score in bests.items())

    def draw(axes: Axes) -> None:
        for curve in curves:
            _draw(axes, curve, 0.14 if len(runs) < 4 else 0.06)
        if best:
            axes.plot(*zip(*best, strict=True), color=dotted.color, linestyle=dotted.dash)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_locator(FixedLocator(sorted({k for curve in curves for k in curve.xs})))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.set(xlabel="k", ylim=(-0.02, 1.04))

    title = title_of(benchmark)
    return Panel("pass_at_k", title, f"pass@k on {title}: {'; '.join(texts) or 'no data'}", draw, keys)


def _length_panels(
    runs: Sequence[Run], names: Sequence[str], lengths: Mapping[str, Mapping[str, Lengths]]
) -> list[Panel]:
    panels = []
    for run in runs:
        for name in names:
            tokens = lengths[run.label].get(name)
            if tokens is not None:
                title = title_of(name) if len(runs) == 1 else f"{title_of(name)}, {run.label}"
                limit = run.results["settings"]["sampling"].get("max_tokens")
                panels.append(length_panel(title, tokens[True], tokens[False], limit))
    return panels[: 2 * RUNS]


def length_panel(title: str, right: Sequence[int], wrong: Sequence[int], limit: int | None) -> Panel:
    """Histogram of tokens of right and wrong responses, with a line at the token limit."""
    top = max([*right, *wrong, 1])

    def draw(axes: Axes) -> None:
        edges = [top * step / 32 for step in range(33)]
        for values, color in ((wrong, WRONG), (right, RIGHT)):
            if values:
                axes.hist(values, bins=edges, color=color, alpha=0.5, linewidth=0)
                axes.hist(values, bins=edges, color=color, histtype="step", linewidth=1.4)
        if limit is not None and limit <= top * 1.5:
            axes.axvline(limit, color=INK, linewidth=1.2, linestyle=":")
            place = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points", "ha": "right", "va": "top"}
            axes.annotate("limit", (limit, 0.97), (-3, 0), **place)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.set(xlabel="tokens", ylabel="samples")

    middle = [str(sorted(values)[len(values) // 2]) if values else "no" for values in (right, wrong)]
    alt = f"response length, {title}: median {middle[0]} tokens where correct, {middle[1]} where not"
    return Panel("lengths", title, alt, draw, (("correct", Line(RIGHT, "-")), ("not correct", Line(WRONG, "-"))))


def of_methods(methods: Sequence[Method], start: Run | None = None) -> list[Panel]:
    """The paper's six panels over seeds: the mean of each method's runs, with a band from lowest to highest.

    Benchmarks come first, then curves of training; with fewer than three benchmarks also pass@n of the first.
    start: the model that all runs began from, shown at step 0.
    """
    names = benchmarks_of(runs_of(methods))[:3]
    shown = [(title_of(name), name, "mean") for name in names]
    shown += [(f"{title_of(names[0])}, pass@n", names[0], "pass@k")] if len(names) < 3 else []
    panels = [
        _seeds_panel(title, "score", {method.name: _scores(method, name, key, start) for method in methods})
        for title, name, key in shown
    ]
    for key, unit in UNITS.items():
        panels.append(_seeds_panel(key.capitalize(), unit, {method.name: _logged(method, key) for method in methods}))
    return panels[:METHOD_PANELS]


def _scores(method: Method, benchmark: str, key: str, start: Run | None) -> list[dict[float, float]]:
    """Scores by step for each run of a method; `key` is mean or pass@k (of the largest k)."""
    curves = []
    for series in method.runs.values():
        steps = zip(series.positions(), series.runs, strict=True)
        runs = ({} if start is None else {0.0: start}) | {s: run for s, run in steps if benchmark in run.benchmarks}
        rows = {step: run.benchmarks[benchmark] for step, run in runs.items() if benchmark in run.benchmarks}
        scores = {step: row["mean"] if key == "mean" else largest_k(row, key) for step, row in rows.items()}
        curves.append({step: score["value"] if score else float("nan") for step, score in scores.items()})
    return curves


def _logged(method: Method, key: str) -> list[dict[float, float]]:
    logs = [series.training_log for series in method.runs.values()]
    curves = [training_log.curve(training_log.read(path), key) for path in logs if path and path.is_file()]
    return [dict(zip(*curve, strict=True)) for curve in curves]


def _seeds_panel(title: str, unit: str, by_method: Mapping[str, Sequence[Mapping[float, float]]]) -> Panel:
    """The mean of each method's runs, at the steps that all of them have."""
    curves = []
    for number, (name, runs) in enumerate(by_method.items()):
        steps = sorted(set.intersection(*map(set, runs))) if runs else []
        table = np.asarray([[run[step] for step in steps] for run in runs])
        bands = (table.mean(axis=0), table.min(axis=0), table.max(axis=0)) if steps else ((),)
        curves.append(Curve(name, line_of(number), steps, *bands))

    def draw(axes: Axes) -> None:
        for curve in curves:
            _draw(axes, curve, 0.09, marked=0)
        _against_step(axes, unit, few=False)

    texts = [curve.ends for curve in curves if curve.ends]
    keys = [(curve.label, curve.line) for curve in curves]
    return Panel("methods", title, f"{title} against the step: {'; '.join(texts) or 'no data'}", draw, keys)
