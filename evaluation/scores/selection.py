"""Last and Best over the checkpoints of a run, and Best corrected for being picked on the test itself.

Best is a maximum over evaluations, so it is too high even if all checkpoints are equally good: 41 evaluations of one
unchanged model add about 1.8 points on AIME at 32 samples, 4 and more on one-sample benchmarks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.scores.intervals import SEED
from evaluation.scores.metrics import IntArray, mean_at_n

Counts = Mapping[str, tuple[int, int]]  # problem id to (correct, samples)
SPLITS = (200, 2000)
CELLS = 4_000_000  # splits x evaluations x problems, so that it takes seconds


@dataclass(frozen=True)
class Evaluation:
    """One checkpoint's mean over problems, in [0, 1]."""

    step: int
    value: float


@dataclass(frozen=True)
class Selection:
    """`corrected` is the selection-corrected estimate; `method` is what was split: "samples", "problems" or None."""

    last: Evaluation
    best: Evaluation
    evaluations: int
    corrected: float | None
    method: str | None
    warnings: tuple[str, ...]


def last_and_best(series: Sequence[tuple[int, Counts]]) -> Selection:
    """Last, Best and a corrected Best of (step, counts) pairs in any order. ValueError for an empty series or counts.

    Corrected: split the data in two halves at random, choose the best checkpoint on one, score it on the other, and
    vice versa; average over many splits. The score uses data that did not make the choice, so its noise is not
    selected. With two or more samples of every problem each problem's samples are split (`method` "samples": without
    replacement, so correct ones in a half are hypergeometric). With one sample the problems are split (`method`
    "problems"), which is noisier but not biased. A choice on half the data is a little worse than one on all of it, so
    the estimate is slightly low if checkpoints truly differ.

    A checkpoint that lacks problems of the fullest one is left out with a warning: its mean is not comparable.
    """
    if not series or not any(counts for _, counts in series):
        raise ValueError(
            "no graded evaluation to choose from: run evaluation.run --checkpoints, then evaluation.grade"
        )
    fullest = max((set(counts) for _, counts in series), key=len)
    kept = sorted((pair for pair in series if set(pair[1]) >= fullest), key=lambda pair: pair[0])
    dropped = sorted(step for step, counts in series if not set(counts) >= fullest)
    notes = [f"steps {', '.join(map(str, dropped))} left out: they lack problems that others have"] if dropped else []
    ids = sorted(fullest)
    table = np.asarray([[counts[i] for i in ids] for _, counts in kept], np.int64)
    means = mean_at_n(table[..., 0], table[..., 1]).mean(axis=1)
    evaluations = [Evaluation(step, float(value)) for (step, _), value in zip(kept, means, strict=True)]
    best = evaluations[int(np.argmax(means))]
    corrected, method = _corrected(table[..., 0], table[..., 1])
    if corrected is not None:
        corrected = min(corrected, best.value)  # exceeds it only by the noise of the splits
    return Selection(evaluations[-1], best, len(kept), corrected, method, tuple(notes))


def _corrected(correct: IntArray, samples: IntArray) -> tuple[float | None, str | None]:
    """Estimate and method; correct, samples (evaluations, P)."""
    if len(correct) == 1:
        return float(mean_at_n(correct, samples).mean()), None
    if samples.min() >= 2:
        method, halves = "samples", _sample_halves
    elif correct.shape[1] >= 2:
        method, halves = "problems", _problem_halves
    else:
        return None, None
    rng, scores = np.random.default_rng(SEED), []
    for _ in range(int(np.clip(CELLS // correct.size, *SPLITS))):
        first, second = halves(rng, correct, samples)
        scores += [second[first.argmax()], first[second.argmax()]]
    return float(np.mean(scores)), method


def _sample_halves(rng: np.random.Generator, correct: IntArray, samples: IntArray):
    """Means of two disjoint halves of every problem's samples, (evaluations,) each."""
    # An odd sample goes to either half as often.
    half = (samples + rng.integers(0, 2)) // 2
    drawn = rng.hypergeometric(correct, samples - correct, half)
    return (drawn / half).mean(axis=1), ((correct - drawn) / (samples - half)).mean(axis=1)


def _problem_halves(rng: np.random.Generator, correct: IntArray, samples: IntArray):
    """Means over two disjoint halves of the problems, (evaluations,) each."""
    order, rates = rng.permutation(correct.shape[1]), correct / samples
    half = len(order) // 2
    return rates[:, order[:half]].mean(axis=1), rates[:, order[half:]].mean(axis=1)
