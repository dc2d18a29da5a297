"""Tables of a report: scores, the paper's Last and Best, and paired differences between models."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from evaluation.pages.folders import Found, Run, Series
from evaluation.pages.table import Score, Table, title_of
from evaluation.scores import comparison, selection
from evaluation.scores.selection import Selection

PAPER = ("aime24", "aime25", "amc23")
POOLED = "mean of benchmarks"

Chosen = Mapping[tuple[str, str], Selection]  # Last and Best by the label of a series and its benchmark


def benchmarks_of(runs: Iterable[Run]) -> list[str]:
    """Every benchmark that any run has, the paper's three first, each once."""
    names = list(dict.fromkeys(name for run in runs for name in run.benchmarks))
    return [name for name in PAPER if name in names] + [name for name in names if name not in PAPER]


def largest_k(row: Mapping[str, Any], key: str) -> Score:
    """Score of the largest k of `pass@k` or `best@k`."""
    scores = row.get(key) or {}
    return scores[max(scores, key=int)] if scores else None


def samples_text(row: Mapping[str, Any]) -> str:
    """Number of samples per problem, or their range if the run is incomplete."""
    low, high = row["n_min"], row["n_max"]
    return str(high) if low == high else f"{low}-{high}"


def _by_benchmark(
    name: str, caption: str, runs: Sequence[Run], scores_of: Callable[[Mapping[str, Any]], dict], count: bool = True
) -> Table:
    """A row for each benchmark and run that has it; `count` adds the samples of a problem to the labels."""
    rows = []
    for benchmark in benchmarks_of(runs):
        for run in runs:
            row = run.benchmarks.get(benchmark)
            if row:
                size = (samples_text(row),) if count else ()
                rows.append(((title_of(benchmark), run.label, *size), scores_of(row)))
    heads = ("benchmark", "run", "n") if count else ("benchmark", "run")
    return Table(name, caption, tuple(scores_of({})), rows, heads)


def scores(runs: Sequence[Run]) -> Table:
    """A row for each run and benchmark: all its numbers in results.json."""
    caption = "Scores. First bracket: 95 % over problems; second, slanted: from run to run on the same problems."
    return _by_benchmark("scores", caption, runs, _scores)


def _scores(row: Mapping[str, Any]) -> dict[str, Score]:
    tokens = row.get("tokens") or {}
    return {
        "mean@n": row.get("mean"),
        "strict mean@n": row.get("strict"),
        "pass@n": largest_k(row, "pass@k"),
        "verl best@n": largest_k(row, "best@k"),
        "maj@n": row.get("majority"),
        "clean mean@n": (row.get("clean") or {}).get("mean"),
        **{key.replace("_", " "): row.get(key) for key in ("no_answer", "truncated", "timeout")},
        **{f"{key} tokens": tokens.get(key) for key in ("mean", "median")},
        **{key: row.get(key) for key in ("problems", "samples", "planned")},
    }


def overview(runs: Sequence[Run]) -> Table:
    """Table for the terminal: the mean with its interval, further scores, and shares of unusable samples."""
    return _by_benchmark("overview", "Scores; brackets hold 95 % intervals over problems.", runs, _overview)


def _overview(row: Mapping[str, Any]) -> dict[str, Score]:
    full = _scores(row)
    bare = {"strict": full["strict mean@n"], "pass@n": full["pass@n"], "maj@n": full["maj@n"]}
    values = {name: score and score["value"] for name, score in bare.items()}
    return {"mean@n": full["mean@n"], **values, **{name: full[name] for name in ("no answer", "truncated")}}


def pass_at_k(runs: Sequence[Run]) -> Table:
    """A row for each run and benchmark, a column for each k: unbiased, then verl's bootstrap."""
    ks = sorted({int(k) for run in runs for row in run.benchmarks.values() for k in row.get("pass@k") or {}})
    groups = {"pass@k": "pass@k", "verl best@k": "best@k"}

    def scores_of(row: Mapping[str, Any]) -> dict[tuple[str, str], Score]:
        return {(group, str(k)): (row.get(key) or {}).get(str(k)) for group, key in groups.items() for k in ks}

    caption = "Unbiased pass@k (Chen et al.) and verl's best@k, which is the paper's Pass@32."
    return _by_benchmark("pass_at_k", caption, runs, scores_of, count=False)


def methods(runs: Sequence[Run]) -> Table:
    """The paper's table for single models: a row per model; mean@n, pass@n and maj@n of each benchmark."""
    names = benchmarks_of(runs)
    sizes = {name: _common([run.benchmarks[name] for run in runs if name in run.benchmarks]) for name in names}
    rows = []
    for run in runs:
        scores = {}
        for name, (n, k) in sizes.items():
            row = run.benchmarks.get(name, {})
            scores[name, f"Mean@{n}"] = row.get("mean")
            scores[name, f"Pass@{k}"] = row.get("pass@k", {}).get(k)
            scores[name, f"Maj@{n}"] = row.get("majority")
        rows.append(((run.label,), scores))
    caption = "Mean, unbiased Pass and Maj of each model; brackets hold 95 % intervals over problems."
    return Table("methods", caption, tuple(rows[0][1]), rows, digits=4, ranked=True)


def _common(rows: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """n as text (`n` where the runs differ) and the largest k that every run has."""
    texts = {samples_text(row) for row in rows}
    shared = set.intersection(*(set(row["pass@k"]) for row in rows))
    return (texts.pop() if len(texts) == 1 else "n"), max(shared, key=int, default="n")


def choose(found: Found) -> Chosen:
    """Last and Best of every series on every benchmark; a benchmark that failed at every checkpoint has none."""
    chosen = {}
    for name in benchmarks_of(run for series in found.series for run in series.runs):
        for series in found.series:
            selected = choose_of(series, name)
            if selected is not None:
                chosen[series.label, name] = selected
    return chosen


def choose_of(series: Series, benchmark: str) -> Selection | None:
    """Last and Best of one series; None where no checkpoint has the benchmark."""
    counts = []
    for step, run in zip(series.positions(), series.runs, strict=True):
        problems = run.benchmarks.get(benchmark, {}).get("per_problem", {})
        graded = {problem: (row["correct"], row["n"]) for problem, row in problems.items() if row["n"]}
        if graded:
            counts.append((int(step), graded))
    return selection.last_and_best(counts) if counts else None


def last_best(found: Found, chosen: Chosen) -> Table:
    """The paper's table: a row per method, Last and Best of each benchmark. A single model has only a Last."""
    names = benchmarks_of(found.all_runs)
    ends: dict[str, dict[str, tuple]] = {member.label: {} for member in (*found.runs, *found.series)}
    for run in found.runs:
        ends[run.label] = {name: (row["mean"]["value"], None) for name, row in run.benchmarks.items()}
    for (label, name), selected in chosen.items():
        ends[label][name] = (selected.last.value, selected.best.value)
    rows = []
    for label, by_benchmark in ends.items():
        scores = {}
        for name in names:
            scores[name, "Last"], scores[name, "Best"] = by_benchmark.get(name, (None, None))
        rows.append(((label,), scores))
    counts = sorted({pick.evaluations for pick in chosen.values()})
    counted = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    notes = [f"Best is the highest of {counted} evaluations on the test itself: see its corrected value."]
    caption = "Last and Best mean score over the checkpoints of each run; best bold, second underlined."
    return Table("last_best", caption, tuple(rows[0][1]), rows, digits=4, ranked=True, notes=notes)


def corrected(chosen: Chosen) -> Table:
    """Best, the number of evaluations it was picked from, and an estimate without the selection's bias."""
    rows, notes = [], []
    for (label, benchmark), pick in chosen.items():
        scores = {
            "Last": pick.last.value,
            "at step": pick.last.step,
            "Best": pick.best.value,
            "at step ": pick.best.step,
            "evaluations": pick.evaluations,
            "Best, corrected": pick.corrected,
            "Best − corrected": None if pick.corrected is None else pick.best.value - pick.corrected,
        }
        rows.append(((title_of(benchmark), label), scores))
        notes += [f"{label}, {title_of(benchmark)}: {text}" for text in pick.warnings]
    halves = " and ".join(sorted({pick.method for pick in chosen.values() if pick.method})) or "samples"
    caption = (
        "Best is a maximum over evaluations, so it is too high even where nothing changes. Corrected: the checkpoint "
        f"is picked on one half of the {halves} and scored on the other, averaged over many splits."
    )
    heads = ("benchmark", "run")
    return Table("selection", caption, tuple(rows[0][1]), rows, heads, digits=4, notes=notes)


def compare(pairs: Sequence[tuple[Run, Run]]) -> Table:
    """First minus second of each pair, by problem; all pairs share the second. ComparisonError if meaningless."""
    rows: list[tuple[tuple[str, str], dict]] = []
    notes: dict[str, list[str]] = {}
    for run, other in pairs:
        compared = comparison.compare(run.results, other.results)
        rows += [((title_of(name), run.label), _paired(row)) for name, row in compared["benchmarks"].items()]
        rows += [((POOLED, run.label), _paired(compared["pooled"]))] if compared["pooled"] else []
        for text in compared["warnings"]:
            notes.setdefault(text, []).append(run.label)
    names = [*map(title_of, benchmarks_of(run for pair in pairs for run in pair)), POOLED]
    rows.sort(key=lambda row: names.index(row[0][0]))
    second = pairs[0][1].label
    caption = f"{pairs[0][0].label} minus {second}" if len(pairs) == 1 else f"Each model minus {second}"
    remarks = [f"{', '.join(labels)}: {text}" for text, labels in notes.items()]
    return Table("comparison", caption, tuple(rows[0][1]), rows, ("benchmark", "model"), digits=4, notes=remarks)


def _paired(row: Mapping[str, Any]) -> dict[str, Score]:
    names = {"p": "p", "Holm's p": "p_holm", "first": "a", "second": "b"}
    names |= {key: key for key in ("won", "tied", "lost", "problems")}
    names |= {"s.e. paired": "se_paired", "s.e. unpaired": "se_unpaired"}
    difference = {"value": row["difference"], "low": row["low"], "high": row["high"]}
    return {"difference": difference, **{name: row.get(key) for name, key in names.items()}}
