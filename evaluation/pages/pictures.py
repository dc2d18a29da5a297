"""Pictures of a report: their runs and colours."""

from collections.abc import Mapping, Sequence

from evaluation.pages.figures import Line, Panel, length_panel, line_of, pass_panel, score_panel
from evaluation.pages.folders import Found, Run
from evaluation.pages.sample_browser import Lengths
from evaluation.pages.step_figures import Trained, six_panels
from evaluation.pages.tables import benchmarks_of, title_of

RUNS = 12  # in one picture


def shown_runs(found: Found) -> tuple[Run, ...]:
    """Single models and both ends of each series; where those are many, a series' last checkpoint alone."""
    return found.ends if len(found.ends) <= RUNS else found.finals


def pictures(
    found: Found, logs: Sequence[tuple[dict, ...]], lengths: Mapping[str, Mapping[str, Lengths]]
) -> list[Panel]:
    """All panels, those against the step first. `logs` are the training steps of each series."""
    lines = _lines(found)
    runs = shown_runs(found)[:RUNS]
    names = benchmarks_of(runs)
    panels = []
    if found.series:
        trained = [
            Trained(series, log, lines[series.runs[-1].label]) for series, log in zip(found.series, logs, strict=True)
        ]
        panels += six_panels(trained, [(run, lines[run.label]) for run in found.runs[:3]])
    panels += _score_panels(runs, names, lines)
    few = runs if len(runs) <= 4 else found.finals[:RUNS]
    panels += [pass_panel(name, title_of(name), few, lines) for name in names]
    return panels + _length_panels(runs if len(runs) * len(names) <= RUNS else found.finals, names, lengths)


def _score_panels(runs: Sequence[Run], names: Sequence[str], lines: Mapping[str, Line]) -> list[Panel]:
    """A picture a benchmark with a row a run; of a lone run one picture with a row a benchmark."""
    if len(runs) == 1:
        rows = [(title_of(name), runs[0].benchmarks[name]["mean"], lines[runs[0].label]) for name in names]
        return [score_panel("mean@n", rows)]
    panels = []
    for name in names:
        rows = [(r.label, r.benchmarks[name]["mean"], lines[r.label]) for r in runs if name in r.benchmarks]
        panels.append(score_panel(title_of(name), rows))
    return panels


def _length_panels(
    runs: Sequence[Run], names: Sequence[str], lengths: Mapping[str, Mapping[str, Lengths]]
) -> list[Panel]:
    panels = []
    for run in runs[:RUNS]:
        for name in names:
            of = lengths[run.label].get(name)
            if of is not None:
                title = title_of(name) if len(runs) == 1 else f"{title_of(name)}, {run.label}"
                limit = run.results["settings"]["sampling"].get("max_tokens")
                panels.append(length_panel(title, of.right, of.wrong, limit))
    return panels[: 2 * RUNS]


def _lines(found: Found) -> dict[str, Line]:
    """A colour a method; the first checkpoint of a series is its last one's, dotted."""
    lines = {run.label: line_of(number) for number, run in enumerate(found.finals)}
    for series in found.series:
        last = lines[series.runs[-1].label]
        for run in series.runs[:-1]:
            lines[run.label] = Line(last.color, ":")
    return lines
