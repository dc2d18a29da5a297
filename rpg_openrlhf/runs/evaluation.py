"""Metrics of an evaluation during training: upstream's samples in, numbers by name out. Standard library only."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import NamedTuple


class Sample(NamedTuple):
    """One graded response. `score` is 1 or 0 with this package's grader; `no_answer` None: the reward does not say."""

    score: float
    tokens: float
    truncated: float
    no_answer: float | None = None


def overall(n: int) -> str:
    """The mean of the benchmarks' means: what the best checkpoint goes by unless told otherwise."""
    return f"eval/mean@{n}"


def scores(names: Iterable[str], n: int) -> list[str]:
    """The names of all that can be called better or worse, by which a best checkpoint may be chosen."""
    kinds = [f"mean@{n}", *([f"pass@{n}"] if n > 1 else [])]
    return [overall(n), *(f"eval/{name}/{kind}" for name in names for kind in kinds)]


def summarize(problems: Mapping[str, Sequence[Sequence[Sample]]], n: int) -> dict[str, float]:
    """Benchmark -> its problems, each with its samples (n where none was lost) -> what is logged.

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
    """Metrics of upstream's eval samples, n to a problem."""
    asked: dict[tuple, list[str]] = defaultdict(list)  # a prompt and its label -> the benchmarks that ask it
    for names, prompts, labels, _images in eval_dataloader:
        for name, prompt, label in zip(names, prompts, labels, strict=True):
            asked[prompt, str(label)].append(name)
    answered: dict[tuple, list[Sample]] = defaultdict(list)
    for experience in experiences:
        # An agent may write prompts of its own: those are nobody's problem.
        answered[experience.prompts[0], str(experience.labels[0])].append(graded(experience))
    problems: dict[str, list[list[Sample]]] = defaultdict(list)
    for key, samples in answered.items():
        names = asked.get(key, ["unknown"])
        share = -(-len(samples) // len(names))  # a problem that two benchmarks have is drawn for each
        for place, name in enumerate(names):
            group = samples[place * share : (place + 1) * share]
            if group:
                problems[name].append(group)
    return summarize({name: problems[name] for name in sorted(problems)}, n)


def graded(experience) -> Sample:
    """One response. Its score, or the reward where the reward function gives no score; what could not be graded is 0.

    Upstream's own pass@1 is of the reward, which is -1 and not 0 where this package's grader says wrong.
    """
    grades = experience.rewards if experience.scores is None else experience.scores
    no_answer = experience.info.get("no_answer")
    return Sample(
        score=0.0 if grades is None else float(grades[0]),
        tokens=float(experience.response_length[0]),
        truncated=float(experience.truncated[0]),
        no_answer=None if no_answer is None else float(no_answer[0]),
    )
