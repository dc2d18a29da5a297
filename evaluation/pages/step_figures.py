"""The paper's six panels: three benchmarks, reward, entropy and response length against the step, a line a run."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from evaluation.pages import training_log
from evaluation.pages.figures import Line, Panel
from evaluation.pages.folders import Run, Series
from evaluation.pages.tables import benchmarks_of, title_of

LABELS = {"reward": "reward", "entropy": "nats per token", "response length": "tokens"}


@dataclass(frozen=True)
class Trained:
    """A series and the steps its training logged; no steps where there is no log."""

    series: Series
    log: tuple[dict, ...]
    line: Line


def six_panels(trained: Sequence[Trained], alone: Sequence[tuple[Run, Line]]) -> list[Panel]:
    """Benchmarks first, as many as there are, then the training run's own curves. `alone`: runs drawn as a level."""
    names = benchmarks_of(run for curve in trained for run in curve.series.runs)
    panels = [_benchmark_panel(name, trained, alone) for name in names]
    return panels + [_log_panel(panel, trained) for panel in LABELS]


def positions(series: Series, logged: float = 0) -> list[float]:
    """Positions of the checkpoints on the axis; a final model that does not know its step stands at the end."""
    known = [run.step for run in series.runs if run.step is not None]
    end = max([logged, *(step + 1 for step in known)], default=1)
    return [float(end if run.step is None else run.step) for run in series.runs]


def _benchmark_panel(name: str, trained: Sequence[Trained], alone: Sequence[tuple[Run, Line]]) -> Panel:
    def draw(axes: Axes) -> None:
        for run, line in alone:
            if name in run.benchmarks:
                axes.axhline(run.benchmarks[name]["mean"]["value"], color=line.color, linestyle=":", linewidth=1.4)
        for curve in trained:
            points = _points(curve, name)
            if not points:
                continue
            steps, scores = [step for step, _ in points], [score for _, score in points]
            band = [score for score in scores if score.get("run_low") is not None]
            if len(band) == len(scores):
                low, high = [s["run_low"] for s in scores], [s["run_high"] for s in scores]
                axes.fill_between(steps, low, high, color=curve.line.color, alpha=0.14, linewidth=0)
            marker = "o" if len(points) < 12 else None
            values = [score["value"] for score in scores]
            axes.plot(steps, values, color=curve.line.color, linestyle=curve.line.dash, marker=marker, markersize=4)
        _integer_steps(axes)

    texts = []
    for one in trained:
        points = _points(one, name)
        if points:
            first, last = (f"{score['value']:.3f} at step {step:g}" for step, score in (points[0], points[-1]))
            texts.append(f"{one.series.label} {first}, {last}")
    keys = [(one.series.label, one.line) for one in trained]
    keys += [(run.label, Line(line.color, ":")) for run, line in alone if name in run.benchmarks]
    alt = f"{title_of(name)} against the step: {'; '.join(texts)}"
    return Panel("panels", title_of(name), alt, draw, tuple(keys))


def _points(one: Trained, name: str) -> list[tuple[float, dict]]:
    steps = zip(positions(one.series, one.log[-1]["step"] if one.log else 0), one.series.runs, strict=True)
    return [(step, run.benchmarks[name]["mean"]) for step, run in steps if name in run.benchmarks]


def _log_panel(panel: str, trained: Sequence[Trained]) -> Panel:
    curves = [(curve, training_log.curve(list(curve.log), panel)) for curve in trained]

    def draw(axes: Axes) -> None:
        for curve, (steps, values) in curves:
            if steps:
                marker = "o" if len(steps) == 1 else None
                axes.plot(
                    steps, values, color=curve.line.color, linestyle=curve.line.dash, linewidth=1.5, marker=marker
                )
        axes.set_ylabel(LABELS[panel])
        _integer_steps(axes)

    texts = [f"{curve.series.label} {v[0]:.3g} to {v[-1]:.3g}" for curve, (_, v) in curves if v]
    texts += [f"{curve.series.label} has no data" for curve, (_, v) in curves if not v]
    return Panel("panels", panel.capitalize(), f"{panel} against the step: {'; '.join(texts)}", draw)


def _integer_steps(axes: Axes) -> None:
    axes.set_xlabel("step")
    axes.margins(x=0.03)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5))
