"""Procedural families of the package reasoning-gym (Apache-2.0) whose answer is one integer.

Only such answers can be graded by their value. The package's other families (a route, a grid, an expression that
makes 24) need the package's own verifiers.
"""

import importlib.metadata
import random
from collections.abc import Iterator

from rpg_openrlhf.errors import Refusal
from rpg_openrlhf.problems.filters import integer, spacing_key
from rpg_openrlhf.problems.rows import Row

FAMILIES = (
    "aiw", "basic_arithmetic", "binary_alternation", "chain_sum", "count_bits", "count_primes", "gcd", "gsm_symbolic",
    "largest_island", "lcm", "leg_counting", "letter_counting", "maze", "products",
    "rectangle_count", "rotten_oranges", "simple_equations", "simple_geometry",
)  # fmt: skip
TRIES = 20  # draws per wanted row, because small families repeat problems


def levels(family: str) -> int:
    """Number of difficulty levels of a family: the length of its curriculum's longest scale."""
    return max((len(each.levels) for each in _curriculum(family).attributes.values()), default=1)


def rows(family: str, count: int, seed: int, difficulty: int | None) -> Iterator[Row]:
    """Yield seeded rows, all that are drawn, until `count` of them are different problems with an integer answer.

    difficulty: level from 1 on every scale of the family's curriculum, or a scale's last; None: the family's default.
    """
    gym, config = _package(), {}
    if difficulty is not None:
        curriculum = _curriculum(family)
        if not 1 <= difficulty <= levels(family):
            raise Refusal(f"--difficulty {difficulty}: {family} has the levels 1 to {levels(family)}")
        for name, attribute in curriculum.attributes.items():
            curriculum.set_attr_level(name, min(difficulty, len(attribute.levels)) - 1)
        config = dict(vars(curriculum.generate_configuration()))
    config |= {"seed": random.Random(f"{seed}:{family}").randrange(2**31), "size": TRIES * count}
    data = gym.create_dataset(family, **config)
    names: set[str] = set()
    for number in range(TRIES * count):
        row = Row(f"{family}-{number}", str(data[number]["question"]).strip(), str(data[number]["answer"]).strip())
        yield row
        if integer(row.answer) is not None:
            names.add(spacing_key(row.text))
        if len(names) == count:
            return
    raise Refusal(
        f"--rows {count}: only {len(names)} different problems of {family} were found in {TRIES * count} draws; "
        "lower it, or raise --difficulty"
    )


def version(family: str) -> str:
    """Version of the package, which decides what a seed draws; a Refusal if the package or the family is missing."""
    if family not in FAMILIES:
        raise Refusal(f"gym:{family}: must be one of {', '.join(FAMILIES)}")
    _package()
    return importlib.metadata.version("reasoning-gym")


def _package():
    try:
        import reasoning_gym  # pyright: ignore[reportMissingImports]  # optional
    except ImportError:
        raise Refusal("gym: families need the package reasoning-gym: pip install reasoning-gym") from None
    return reasoning_gym


def _curriculum(family: str):
    _package()
    from reasoning_gym.factory import create_curriculum, has_curriculum  # pyright: ignore[reportMissingImports]

    if not has_curriculum(family):
        raise Refusal(f"--difficulty: {family} has no levels; leave it out")
    return create_curriculum(family)
