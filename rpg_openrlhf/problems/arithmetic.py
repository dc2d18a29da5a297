"""Sums of two numbers in three disjoint splits; the number of digits sets the difficulty.

The task of the quickstart and of `prepare_data arithmetic`. Standard library only.
"""

import hashlib
import random
from collections.abc import Iterator

DIGITS = 4
SPLITS = ("warm_up", "rl", "heldout")
ENOUGH_REPEATS = 10_000  # draws in a row without a new problem: the split has (almost) no more

Problem = tuple[int, int]


def split_of(problem: Problem) -> str:
    """Split of a sum, independent of the seed: 50 % warm-up, 40 % RL, 10 % held out.

    a+b and b+a have the same hash, so both are in the same split.
    """
    low, high = sorted(problem)
    bucket = int.from_bytes(hashlib.sha256(f"{low}+{high}".encode()).digest()[:8], "big") % 10
    return "warm_up" if bucket < 5 else "rl" if bucket < 9 else "heldout"


def problems(split: str, seed: int, digits: int = DIGITS) -> Iterator[Problem]:
    """Endless seeded problems of one split, drawn with replacement (four digits: 40 million unordered pairs)."""
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, not {split!r}")
    rng = random.Random(f"{seed}:{split}")
    low, high = 10 ** (digits - 1), 10**digits - 1
    while True:
        problem = rng.randint(low, high), rng.randint(low, high)
        if split_of(problem) == split:
            yield problem


def distinct(split: str, count: int, seed: int, digits: int = DIGITS) -> list[Problem]:
    """The first `count` different problems of a split; ValueError if it has fewer."""
    seen: dict[Problem, None] = {}
    repeats = 0
    for problem in problems(split, seed, digits):
        if len(seen) == count:
            break
        repeats = repeats + 1 if problem in seen else 0
        if repeats > ENOUGH_REPEATS:
            raise ValueError(f"there are only {len(seen)} different sums of {digits}-digit numbers")
        seen[problem] = None
    return list(seen)


def prompt(problem: Problem) -> str:
    """Prompt of the tiny model, e.g. `1234+5678=` and a newline."""
    return f"{problem[0]}+{problem[1]}=\n"


def worded(problem: Problem) -> str:
    """The problem in words, for a real model."""
    return f"What is {problem[0]} + {problem[1]}?"


def gold(problem: Problem) -> str:
    """The right answer."""
    return str(sum(problem))
