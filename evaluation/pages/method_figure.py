"""The paper's six panels over seeds: a line a method, the mean of its runs, in a band from lowest to highest."""

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from evaluation.pages import training_log
from evaluation.pages.figures import Line, Panel, line_of
from evaluation.pages.folders import Run
from evaluation.pages.methods import Method
from evaluation.pages.step_figures import positions
from evaluation.pages.tables import benchmarks_of, largest_k, title_of

SIX = 6
LOGGED = {"reward": "reward", "entropy": "nats per token", "response length": "tokens", "gradient norm": "norm"}

Curves = list[dict[float, float]]  # of one method: a run's values by step


def six_panels(methods: Sequence[Method], start: Run | None = None) -> list[Panel]:
    """Benchmarks, then the training's own curves; pass@n of the first benchmark where there is room for it.

    start: the model that all runs began from, which stands at step 0 of each.
    """
    names = benchmarks_of(run for method in methods for series in method.runs.values() for run in series.runs)[:3]
    panels = [_panel(title_of(name), "score", methods, _scores(name, "mean", start)) for name in names]
    if len(names) < 3:
        panels.append(_panel(f"{title_of(names[0])}, pass@n", "score", methods, _scores(names[0], "pass", start)))
    for key, unit in LOGGED.items():
        panels.append(_panel(key.capitalize(), unit, methods, _logged(key)))
    return panels[:SIX]


def _scores(benchmark: str, which: str, start: Run | None) -> Callable[[Method], Curves]:
    def value(run: Run) -> float:
        found = run.benchmarks[benchmark]
        score = found["mean"] if which == "mean" else largest_k(found, "pass@k")[1]
        return score["value"] if score else float("nan")

    def curves(method: Method) -> Curves:
        found = []
        for series in method.runs.values():
            steps = zip(positions(series), series.runs, strict=True)
            curve = {step: value(run) for step, run in steps if benchmark in run.benchmarks}
            if start is not None and benchmark in start.benchmarks:
                curve.setdefault(0.0, value(start))
            found.append(curve)
        return found

    return curves


def _logged(key: str) -> Callable[[Method], Curves]:
    def curves(method: Method) -> Curves:
        logs = [series.training_log for series in method.runs.values()]
        rows = [training_log.read(path) for path in logs if path is not None and path.is_file()]
        return [dict(zip(*training_log.curve(run, key), strict=True)) for run in rows]

    return curves


def summary(curves: Curves) -> tuple[list[float], np.ndarray, np.ndarray, np.ndarray]:
    """Steps that every run has, and the mean, lowest and highest of the runs at each."""
    common = set.intersection(*(set(curve) for curve in curves)) if curves else set()
    steps = sorted(common)
    table = np.asarray([[curve[step] for step in steps] for curve in curves]).reshape(len(curves), len(steps))
    if not steps:
        return [], *(np.zeros(0) for _ in range(3))
    return steps, table.mean(axis=0), table.min(axis=0), table.max(axis=0)


def _panel(title: str, unit: str, methods: Sequence[Method], curves: Callable[[Method], Curves]) -> Panel:
    lines = {method.name: line_of(number) for number, method in enumerate(methods)}
    found = {method.name: summary(curves(method)) for method in methods}

    def draw(axes: Axes) -> None:
        for name, (steps, mean, low, high) in found.items():
            line: Line = lines[name]
            if steps:
                axes.fill_between(steps, low, high, color=line.color, alpha=0.09, linewidth=0)
                axes.plot(steps, mean, color=line.color, linestyle=line.dash)
        axes.set(xlabel="step", ylabel=unit)
        axes.margins(x=0.02)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))

    texts = [f"{name} {mean[0]:.3g} to {mean[-1]:.3g}" for name, (steps, mean, _, _) in found.items() if steps]
    keys = tuple(lines.items())
    return Panel("methods", title, f"{title} against the step: {'; '.join(texts) or 'no data'}", draw, keys)
