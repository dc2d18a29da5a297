"""Ground truth for the scores by enumeration: every subset, every draw, every ballot, every sign pattern. Slow.

A problem is a vector of 0 and 1, one entry a sample; nothing here knows a closed form.
"""

from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from itertools import combinations, product

import numpy as np


def vector(correct: int, samples: int) -> list[int]:
    return [1] * correct + [0] * (samples - correct)


def mean(outcomes: Sequence[int]) -> float:
    total = 0
    for outcome in outcomes:
        total += outcome
    return total / len(outcomes)


def pass_at_k(outcomes: Sequence[int], k: int) -> float:
    """Share of all k-subsets of the samples that hold a right one."""
    subsets = list(combinations(outcomes, k))
    return sum(any(subset) for subset in subsets) / len(subsets)


def best_at_k(outcomes: Sequence[int], k: int) -> float:
    """Share of all n^k ordered draws with replacement that hold a right one."""
    draws = list(product(outcomes, repeat=k))
    return sum(any(draw) for draw in draws) / len(draws)


def verl_best(outcomes: Sequence[int], k: int, rounds: int, seed: int) -> float:
    """What verl's bootstrap_metric does with max: k indices with replacement, the maximum, the average of rounds."""
    random = np.random.RandomState(seed)
    maxima = []
    for _ in range(rounds):
        chosen = random.choice(len(outcomes), size=k, replace=True)
        maxima.append(max(outcomes[i] for i in chosen))
    return float(np.mean(maxima))


def majority(answers: Sequence[str | None], gold: str) -> float:
    """One ballot, a vote a sample; every most-voted answer is as likely to be announced."""
    votes = Counter(answer for answer in answers if answer is not None)
    if not votes:
        return 0.0
    winners = [answer for answer in votes if votes[answer] == max(votes.values())]
    return sum(answer == gold for answer in winners) / len(winners)


def sign_flip_p(differences: Sequence[Fraction]) -> float:
    """Twice the smaller tail of the sum over all 2^P sign patterns, at most 1; exact arithmetic."""
    observed = sum(differences)
    sums = [
        sum(sign * difference for sign, difference in zip(signs, differences, strict=True))
        for signs in product((1, -1), repeat=len(differences))
    ]
    above, below = sum(s >= observed for s in sums), sum(s <= observed for s in sums)
    return min(1.0, 2 * min(above, below) / len(sums))


def corrected_best(series: Sequence[Sequence[Sequence[int]]]) -> float:
    """Every split of every problem's samples in equal halves: choose by one (first of equals), score on the other.

    `series` is evaluations of problems of outcomes, all with the same even n. Splits of different evaluations are
    independent, so this enumerates products: two evaluations of a problem or two at four samples, no more.
    """
    half = len(series[0][0]) // 2
    cells = [outcomes for evaluation in series for outcomes in evaluation]
    problems = len(series[0])
    options = [list(combinations(range(len(cell)), half)) for cell in cells]
    scores = []
    for choice in product(*options):
        chosen = [sum(cell[i] for i in picked) for cell, picked in zip(cells, choice, strict=True)]
        rest = [sum(cell) - part for cell, part in zip(cells, chosen, strict=True)]
        first = [sum(chosen[e * problems : (e + 1) * problems]) for e in range(len(series))]
        second = [sum(rest[e * problems : (e + 1) * problems]) for e in range(len(series))]
        scores.append(second[first.index(max(first))] / (half * problems))
    return sum(scores) / len(scores)
