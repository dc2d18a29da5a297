"""An evaluation's samples, each to the benchmark and the problem it was drawn for."""

from collections import defaultdict
from collections.abc import Iterable

from rpg_openrlhf.runs.eval_metrics import Sample, summarize


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
