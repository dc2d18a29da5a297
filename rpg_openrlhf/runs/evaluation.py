"""Metrics of an evaluation during training: upstream's samples in, numbers by name out. Standard library only."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import NamedTuple


class Sample(NamedTuple):
    """A graded response. This package's grader gives a `score` of 1 or 0; `no_answer` is None if not reported."""

    score: float
    tokens: float
    truncated: float
    no_answer: float | None = None


def overall(n: int) -> str:
    """Name of the mean of the benchmarks' means, the default metric of the best checkpoint."""
    return f"eval/mean@{n}"


def scores(names: Iterable[str], n: int) -> list[str]:
    """Names of the metrics by which a best checkpoint may be chosen."""
    kinds = [f"mean@{n}", *([f"pass@{n}"] if n > 1 else [])]
    return [overall(n), *(f"eval/{name}/{kind}" for name in names for kind in kinds)]


def summarize(problems: Mapping[str, Sequence[Sequence[Sample]]], n: int) -> dict[str, float]:
    """Metrics to log, from each benchmark's problems and their samples (n per problem if none was lost).

    pass@n is the mean over problems of the best score: with scores of 0 and 1, the share solved at least once.
    """
    logged: dict[str, float] = {}
    for name, groups in problems.items():
        samples = [sample for group in groups for sample in group]
        logged[f"eval/{name}/mean@{n}"] = fmean(fmean(sample.score for sample in group) for group in groups)
        if n > 1:
            logged[f"eval/{name}/pass@{n}"] = fmean(max(sample.score for sample in group) for group in groups)
        logged[f"eval/{name}/response_length_mean"] = fmean(sample.tokens for sample in samples)
        logged[f"eval/{name}/truncated_rate"] = fmean(sample.truncated for sample in samples)
        unanswered = [sample.no_answer for sample in samples if sample.no_answer is not None]
        if unanswered:
            logged[f"eval/{name}/no_answer"] = fmean(unanswered)
    if problems:
        logged[overall(n)] = fmean(logged[f"eval/{name}/mean@{n}"] for name in problems)
    logged["eval/num_samples"] = float(sum(len(group) for groups in problems.values() for group in groups))
    return logged


def metrics(eval_dataloader: Iterable, experiences: list, n: int) -> dict[str, float]:
    """Metrics of upstream's eval samples, n per problem."""
    asked: dict[tuple, list[str]] = defaultdict(list)  # (prompt, label) -> the benchmarks that contain it
    for names, prompts, labels, _images in eval_dataloader:
        for name, prompt, label in zip(names, prompts, labels, strict=True):
            asked[prompt, str(label)].append(name)
    answered: dict[tuple, list[Sample]] = defaultdict(list)
    for experience in experiences:
        # An agent may write its own prompts, which no benchmark contains.
        answered[experience.prompts[0], str(experience.labels[0])].append(graded(experience))
    problems: dict[str, list[list[Sample]]] = defaultdict(list)
    for key, samples in answered.items():
        names = asked.get(key, ["unknown"])
        share = -(-len(samples) // len(names))  # a problem of two benchmarks is sampled for each
        for place, name in enumerate(names):
            group = samples[place * share : (place + 1) * share]
            if group:
                problems[name].append(group)
    return summarize({name: problems[name] for name in sorted(problems)}, n)


def graded(experience) -> Sample:
    """Convert one response. Without a score its reward counts, and without a reward 0.

    Upstream's own pass@1 averages the reward, which is -1, not 0, if this package's grader calls the answer wrong.
    """
    grades = experience.rewards if experience.scores is None else experience.scores
    no_answer = experience.info.get("no_answer")
    return Sample(
        score=0.0 if grades is None else float(grades[0]),
        tokens=float(experience.response_length[0]),
        truncated=float(experience.truncated[0]),
        no_answer=None if no_answer is None else float(no_answer[0]),
    )
