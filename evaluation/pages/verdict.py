"""Sentences of a report: warnings that a reader must know before the numbers, and a summary of the numbers."""

from collections.abc import Sequence

from evaluation.pages.folders import Found, Run, Series
from evaluation.pages.table import title_of
from evaluation.pages.tables import benchmarks_of, samples_text

DESCRIBED = 2  # most runs and series that the paragraph describes one by one


def warnings(found: Found, log_problems: Sequence[str] = ()) -> list[str]:
    """Incomplete runs, failed checkpoints, truncation, missing answers, contamination: one line for each run."""
    lines = [f"{folder} has no sample and is left out." for folder in found.empty]
    lines += [line for run in found.runs for line in _run_warnings(run)]
    for series in found.series:
        lines += [_failed(series, row) for row in series.failed]
        bad = [run for run in series.runs if _run_warnings(run)]
        # Only the latest one's warnings are listed: the others' are mostly the same.
        lines += [line for run in bad[-1:] for line in _run_warnings(run)]
        if len(bad) > 1:
            lines[-1] += f" {len(bad) - 1} more of its checkpoints have warnings."
    return [*lines, *log_problems] + [line for run in found.finals for line in _contaminated(run)]


def _run_warnings(run: Run) -> list[str]:
    rows = run.results["benchmarks"]
    parts = [f"{title_of(name)}: {text}." for name, row in rows.items() for text in row.get("warnings") or ()]
    if not run.results.get("complete", True) and not any("incomplete" in part for part in parts):
        have, planned = run.results["samples"], run.results["planned"]
        parts.insert(0, f"incomplete, {have:,} of {planned:,} samples; scores divide by those that exist.")
    return [f"{run.label}: {' '.join(parts)}"] if parts else []


def _failed(series: Series, row: dict) -> str:
    when = "the final model" if row["step"] is None else f"step {row['step']}"
    return f"{series.label}: {when} has no numbers: {row['error'] or row['status']}"


def _contaminated(run: Run) -> list[str]:
    lines = []
    for name, row in run.benchmarks.items():
        clean = row.get("clean")
        if clean and clean["problems"] < row["problems"]:
            score = (clean.get("mean") or {}).get("value")
            rest = f"the other {clean['problems']} give {score:.3f}" if score is not None else "no other is left"
            seen = f"{row['problems'] - clean['problems']} of the {row['problems']} problems"
            lines.append(
                f"{run.label}, {title_of(name)}: the training data repeats {seen}; "
                f"all give {row['mean']['value']:.3f}, {rest}."
            )
    return lines


def paragraph(found: Found) -> str:
    """Result in a few sentences: each model's scores, or with many models the highest on each benchmark."""
    if len(found.runs) + len(found.series) > DESCRIBED:
        return _ranking(found)
    return " ".join([*map(_run_words, found.runs), *map(_series_words, found.series)])


def _ranking(found: Found) -> str:
    parts = []
    for name in benchmarks_of(found.finals):
        means = {run.label: run.benchmarks[name]["mean"] for run in found.finals if name in run.benchmarks}
        first = max(means, key=lambda label: means[label]["value"])
        parts.append(f"{first} on {title_of(name)} with {means[first]['value']:.3f} ({_range(means[first])})")
    last = ", each at its last checkpoint" if found.series else ""
    return (
        f"Of {len(found.finals)} models{last}, the highest mean is that of {_join(parts)}; brackets are 95 % "
        "intervals over problems. Where intervals overlap, the paired comparison tells more than the ranking."
    )


def _run_words(run: Run) -> str:
    names = benchmarks_of([run])
    if not names:
        return f"{run.label} has no graded sample yet."
    parts = []
    for name in names:
        score = run.benchmarks[name]["mean"]
        runs = f"; {_range(score, 'run_')} from run to run" if score.get("run_low") is not None else ""
        parts.append(f"{score['value']:.3f} on {title_of(name)} ({_range(score)} over problems{runs})")
    sizes = {samples_text(run.benchmarks[name]) for name in names}
    size = sizes.pop() if len(sizes) == 1 else ""
    drawn = f", with {'one sample' if size == '1' else f'{size} samples'} of each problem," if size else ""
    return f"{run.label} scores{drawn} {_join(parts)}. Brackets are 95 % intervals."


def _series_words(series: Series) -> str:
    if len(series.runs) == 1:
        return _run_words(series.runs[0])
    parts = []
    for name in benchmarks_of(series.runs):
        means = [run.benchmarks[name]["mean"] for run in series.runs if name in run.benchmarks]
        first, last = means[0]["value"], means[-1]["value"]
        parts.append(f"from {first:.3f} to {last:.3f} ({_range(means[-1])}) on {title_of(name)}")
    ends = f"{series.runs[0].when} to {series.runs[-1].when}"
    start = f"{series.label} goes, over {len(series.runs)} checkpoints, {ends},"
    return f"{start} {_join(parts)}. Brackets are 95 % intervals over problems."


def _range(score: dict, kind: str = "") -> str:
    low, high = score.get(f"{kind}low"), score.get(f"{kind}high")
    return f"{low:.3f} to {high:.3f}" if low is not None and high is not None else "unknown"


def _join(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{'; '.join(parts[:-1])}; and {parts[-1]}"
