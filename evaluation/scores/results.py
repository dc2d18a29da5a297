"""results.json and summary.md of a graded folder, from its settings, votes, graded rows and provenance."""

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.scores.intervals import Ballot
from evaluation.scores.metrics import k_grid, length_quantiles, majority, mean_at_n, rate
from evaluation.scores.scoring import all_scores, count_score
from evaluation.scores.summary import percent, summary_markdown
from evaluation.store import read_json, write_json, write_text

WARN_RATE = 0.2
WARN_TOO_COSTLY = 0.02

Rows = dict[str, list[dict[str, Any]]]


class ResultsError(ValueError):
    """A folder whose results cannot be computed, in one line."""


def write_results(folder: Path) -> dict[str, Any]:
    """Write results.json and summary.md, each atomically. ResultsError or OSError."""
    results = summarize(folder)
    write_json(folder / "results.json", results)
    write_text(folder / "summary.md", summary_markdown(results))
    return results


def summarize(folder: Path) -> dict[str, Any]:
    """Content of results.json; reads only.

    Scores divide by the samples that exist and are graded. ResultsError if files are missing or disagree.
    """
    settings = _required(folder / "settings.json", "not an evaluation folder; give one that evaluation.run wrote")
    votes = _required(folder / "votes.json", f"run python -m evaluation.grade {folder}")
    contamination = folder / "contamination.json"
    repeated = _examined(read_json(contamination), settings) if contamination.exists() else {}
    graded = _graded_rows(folder, settings["n"])
    benchmarks = {}
    for name, source in settings["benchmarks"].items():
        sampled = {i: row for i, row in votes["benchmarks"].get(name, {}).items() if row["n"] > 0}
        rows = {i: graded.get((name, i), []) for i in sorted(sampled)}
        _check_in_step(folder, name, sampled, rows)
        benchmark = summarize_benchmark(sampled, rows, settings["n"], source["rows_used"], repeated.get(name))
        benchmark["warnings"] = warnings_of(benchmark, settings)
        benchmarks[name] = benchmark
    planned = sum(benchmark["planned"] for benchmark in benchmarks.values())
    samples = sum(benchmark["samples"] for benchmark in benchmarks.values())
    provenance = folder / "provenance.json"
    return {
        "settings": settings,
        "provenance": read_json(provenance) if provenance.exists() else {},
        "grader": votes.get("grader"),
        "complete": samples == planned,
        "planned": planned,
        "samples": samples,
        "warnings": [f"{name}: {text}" for name, sampled in benchmarks.items() for text in sampled["warnings"]],
        "benchmarks": benchmarks,
    }


def _examined(contamination: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Repeated problems by benchmark, without benchmarks that have grown since they were searched for."""
    counts = contamination.get("examined", {})
    used = {name: source["rows_used"] for name, source in settings["benchmarks"].items()}
    return {name: row for name, row in contamination["benchmarks"].items() if counts.get(name, 0) >= used.get(name, 0)}


def summarize_benchmark(
    votes: Mapping[str, Mapping[str, Any]],
    rows: Rows,
    n: int,
    planned_problems: int,
    repeated: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """One benchmark's entry without warnings; `votes` and `rows` by problem id, `repeated`: in training data."""
    ids = sorted(votes)
    correct, strict, samples = (
        np.asarray([votes[i][key] for i in ids], np.int64) for key in ("correct", "strict", "n")
    )
    ballots = [_ballot(votes[i]) for i in ids]
    total = int(samples.sum())
    counts = {key: sum(votes[i][key] for i in ids) for key in ("truncated", "no_answer", "timeout")}
    counts["failed"] = sum(row["finish_reason"] == "error" for i in ids for row in rows[i])
    kept = np.asarray([i not in (repeated or ()) for i in ids], bool)
    clean = {"problems": int(kept.sum()), "repeated": int((~kept).sum())}
    return {
        "problems": len(ids),
        "planned_problems": planned_problems,
        "samples": total,
        "planned": planned_problems * n,
        "n_min": int(samples.min()) if ids else 0,
        "n_max": int(samples.max(initial=0)),
        **all_scores(correct, strict, samples, ballots, k_grid(n)),
        "tokens": length_quantiles([row["tokens"] for i in ids for row in rows[i]]),
        **{key: rate(count, total) for key, count in counts.items()},
        # The problems that the training data does not repeat; None if not searched.
        "clean": None if repeated is None else clean | {"mean": count_score(correct[kept], samples[kept], mean_at_n)},
        "per_problem": {i: _problem(votes[i], rows[i], ballot) for i, ballot in zip(ids, ballots, strict=True)},
    }


def _problem(votes: Mapping[str, Any], rows: list[dict[str, Any]], ballot: Ballot) -> dict[str, Any]:
    counts = {key: votes[key] for key in ("n", "correct", "strict")}
    tokens = sum(row["tokens"] for row in rows) / len(rows)
    return counts | {"majority": majority(ballot.votes, ballot.right), "tokens": tokens}


def _ballot(problem: Mapping[str, Any]) -> Ballot:
    groups = problem["groups"]
    counted = tuple(group["count"] for group in groups)
    return Ballot(counted, tuple(group["correct"] for group in groups), problem["n"] - sum(counted))


def warnings_of(benchmark: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    """Warnings that a reader must know before the scores, each with what to do."""
    texts = []
    again = "run the same evaluation.run command again to finish"
    if benchmark["samples"] < benchmark["planned"]:
        texts.append(
            f"incomplete: {benchmark['samples']} of {benchmark['planned']} planned samples, "
            f"{benchmark['problems']} of {benchmark['planned_problems']} problems; scores are of these: {again}"
        )
    if not benchmark["samples"]:
        return texts
    limit = settings.get("sampling", {}).get("max_tokens")
    if benchmark["truncated"] > WARN_RATE:
        texts.append(f"{percent(benchmark['truncated'])} % of samples cut off at {limit} tokens: raise --max-tokens")
    if benchmark["no_answer"] > WARN_RATE:
        style = settings.get("prompt", {}).get("style")
        cause = (
            "most were cut off" if benchmark["truncated"] > benchmark["no_answer"] / 2 else f"check --prompt ({style})"
        )
        texts.append(f"{percent(benchmark['no_answer'])} % of samples hold no extractable answer: {cause}")
    if benchmark["timeout"] > WARN_TOO_COSTLY:
        share = percent(benchmark["timeout"])
        texts.append(f"{share} % of answers are too costly to compare and count as wrong: see graded.jsonl")
    if benchmark["failed"]:
        texts.append(
            f"{percent(benchmark['failed'])} % of samples ended in an engine error and count as wrong: see engine.log"
        )
    return texts


def _required(path: Path, fix: str) -> dict[str, Any]:
    if not path.is_file():
        raise ResultsError(f"{path} does not exist: {fix}")
    return read_json(path)


def _graded_rows(folder: Path, n: int) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Graded samples 0 to n-1 by (benchmark, problem), one row a sample: the last one written."""
    path = folder / "graded.jsonl"
    if not path.is_file():
        raise ResultsError(f"{path} does not exist: run python -m evaluation.grade {folder}")
    latest: dict[tuple[str, str, int], dict[str, Any]] = {}
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith("\n"):
                break  # cut off by a kill; _check_in_step finds a missing row
            try:
                row = json.loads(line)
                latest[row["benchmark"], row["problem"], row["sample"]] = row
            except (ValueError, KeyError, TypeError):
                raise ResultsError(f"{path}:{number} is not a graded sample: delete the file and regrade") from None
    rows: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for benchmark, problem, sample in sorted(latest):
        if sample < n:
            rows[benchmark, problem].append(latest[benchmark, problem, sample])
    return rows


def _check_in_step(folder: Path, name: str, votes: Mapping[str, Mapping[str, Any]], rows: Rows) -> None:
    for problem, counted in votes.items():
        seen = len(rows[problem]), sum(row["correct"] for row in rows[problem])
        if seen != (counted["n"], counted["correct"]):
            raise ResultsError(
                f"{folder}: votes.json has {counted['correct']} of {counted['n']} for {name} {problem}, graded.jsonl "
                f"{seen[1]} of {seen[0]}: run python -m evaluation.grade {folder}"
            )
