"""Numbers in answers: exact fractions if they are rational, else values at sample points with 200 digits.

A letter stands for fixed pseudo-random numbers: two expressions are equal if they agree at every point (identity
testing). All sizes are bounded, because a model wrote the text. Values that are not exact must stay within 10^-40 and
10^40, so that no term can be smaller than the tolerance of 10^-100.
"""

import hashlib
import operator
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from typing import Any

from mpmath.ctx_mp import MPContext

DIGITS = 200
POINTS = 12  # sample points of every letter; the first four are positive, for functions of a limited domain
POSITIVE_POINTS = 4
MAX_DIGITS_EXPONENT = 4  # 1e9999 is the largest literal
MAX_BITS = 24_000  # limit of an exact numerator or denominator: 7,000 digits, enough for 2100!
MAX_WORK = 30_000  # limit per answer, in products of two points: about a third of a second

Point = Any  # mpf or mpc


class NotExact(ValueError):
    """The expression has no value that can be compared."""


class TooBig(ValueError):
    """The expression exceeds the limits on size or work and was not evaluated."""


class Contexts(threading.local):
    """One mpmath context per thread, because mpmath changes the precision while a function runs."""

    def __init__(self) -> None:
        self.mp = MPContext()
        self.mp.dps = DIGITS
        self.tolerance = self.mp.mpf(10) ** -100
        self.largest = self.mp.mpf(10) ** 40
        self.log_largest = self.mp.log(self.largest)
        self.work = 0


contexts = Contexts()


def start_answer() -> None:
    """Reset the calling thread's count of work, for a new answer."""
    contexts.work = 0


def spend(work: int) -> None:
    contexts.work += work
    if contexts.work > MAX_WORK:
        raise TooBig("work")


_INTEGER = re.compile(r"([+-]?)(\d+|\d{1,3}(?:,\d{3})+)(?:\.0*)?", re.ASCII)


def plain_integer(text: str) -> str | None:
    """The canonical digits of an integer such as 042, +7, 42.0 or 1,234, or None. Integers are compared as strings."""
    match = _INTEGER.fullmatch(text)
    if match is None:
        return None
    digits = match.group(2).replace(",", "").lstrip("0") or "0"
    return "-" + digits if match.group(1) == "-" and digits != "0" else digits


def decimal_fraction(literal: str) -> Fraction:
    """Exact value of an unsigned literal such as 12, .5, 3. or 4.5e33. Decimal reads more digits than int does."""
    exponent = literal.lower().partition("e")[2]
    if len(exponent.lstrip("+-0")) > MAX_DIGITS_EXPONENT:
        raise TooBig("exponent")
    return Fraction(Decimal(literal))


def checked(point: Point) -> Point:
    """The point itself, or zero if it is only a rounding error."""
    mp = contexts.mp
    if not mp.isfinite(point):
        raise NotExact("not finite")
    size = abs(point)
    if size < contexts.tolerance:
        return mp.zero
    if size > contexts.largest or size * contexts.largest < 1:
        raise TooBig("magnitude")
    if isinstance(point, mp.mpc) and abs(point.imag) < contexts.tolerance * size:
        return point.real
    return point


@dataclass(frozen=True, eq=False)
class Number:
    """`exact` if rational, else `points`: one value for a constant, POINTS values for an expression with letters."""

    exact: Fraction | None
    points: tuple[Point, ...]
    letters: frozenset[str] = frozenset()

    def at(self) -> tuple[Point, ...]:
        if self.exact is None:
            return self.points
        return (checked(contexts.mp.mpf(self.exact.numerator) / self.exact.denominator),)

    def __add__(self, other: "Number") -> "Number":
        return _arithmetic(operator.add, self, other)

    def __neg__(self) -> "Number":
        if self.exact is not None:
            return rational(-self.exact)
        return Number(None, tuple(-point for point in self.points), self.letters)

    def __sub__(self, other: "Number") -> "Number":
        return self + -other

    def __mul__(self, other: "Number") -> "Number":
        return _arithmetic(operator.mul, self, other)

    def __truediv__(self, other: "Number") -> "Number":
        if other.is_zero():
            raise NotExact("division by zero")
        return _arithmetic(operator.truediv, self, other)

    def is_zero(self) -> bool:
        return self.exact == 0 if self.exact is not None else any(point == 0 for point in self.points)

    @property
    def is_constant(self) -> bool:
        return not self.letters

    def real(self) -> Point | None:
        """The value of a real constant, else None."""
        if self.letters:
            return None
        (point,) = self.at()
        return None if isinstance(point, contexts.mp.mpc) else point

    def equals(self, other: "Number") -> bool:
        """True if equal at the sample points where this number, the gold answer's, is real; if few are, at all points.

        A constant gold answer equals no expression with letters, even if the values agree: 0 is not 1 xor 0.
        """
        if other.letters and not self.letters:
            return False
        if self.exact is not None and other.exact is not None:
            return self.exact == other.exact
        pairs = list(zip(*_aligned(self, other), strict=True))
        mp = contexts.mp
        real = [pair for pair in pairs if not isinstance(pair[0], mp.mpc)]
        return all(_close(a, b) for a, b in (real if len(real) >= POSITIVE_POINTS else pairs))

    def ratio(self, other: "Number") -> Point | None:
        """The factor between two expressions if it is constant, real and not zero; else None."""
        try:
            quotient = self / other
        except NotExact:
            return None
        points = quotient.at()
        if any(isinstance(point, contexts.mp.mpc) or not _close(points[0], point) for point in points):
            return None
        return points[0] if points[0] != 0 else None


def _close(a: Point, b: Point) -> bool:
    return abs(a - b) <= contexts.tolerance * max(abs(a), abs(b))


def _aligned(*numbers: Number) -> list[tuple[Point, ...]]:
    """The points of all numbers, with constants repeated to the same length."""
    points = [number.at() for number in numbers]
    count = max(map(len, points))
    return [row * count if len(row) == 1 else row for row in points]


def _arithmetic(operation: Callable[[Any, Any], Any], left: Number, right: Number) -> Number:
    if left.exact is not None and right.exact is not None:
        return rational(operation(left.exact, right.exact))
    return combine(operation, left, right)


def combine(function: Callable[..., Point], *numbers: Number, work: int = 1) -> Number:
    """Apply a function point by point."""
    try:
        rows = list(zip(*_aligned(*numbers), strict=True))
        spend(work * len(rows))
        values = tuple(checked(function(*row)) for row in rows)
    except (ZeroDivisionError, OverflowError, ValueError) as error:
        if isinstance(error, TooBig | NotExact):
            raise
        raise NotExact(str(error)) from None
    return Number(None, values, frozenset().union(*(number.letters for number in numbers)))


def rational(value: Fraction | int) -> Number:
    exact = Fraction(value)
    if max(exact.numerator.bit_length(), exact.denominator.bit_length()) > MAX_BITS:
        raise TooBig("fraction")
    return Number(exact, ())


def constant(name: str) -> Number:
    mp = contexts.mp
    value = {"pi": +mp.pi, "e": mp.e + 0, "i": mp.mpc(0, 1)}[name]
    return Number(None, (value,))


@lru_cache(maxsize=4096)
def pseudo_random(name: str, index: int) -> Fraction:
    """A fixed number between 0.3 and 3 for a name and a point; negative at some points."""
    digest = hashlib.sha256(f"{name}/{index}".encode()).digest()
    size = Fraction(3, 10) + Fraction(int.from_bytes(digest[:12], "big"), 1 << 96) * Fraction(27, 10)
    return -size if index >= POSITIVE_POINTS and digest[12] & 1 else size


def _samples(name: str) -> tuple[Point, ...]:
    mp = contexts.mp
    values = (pseudo_random(name, index) for index in range(POINTS))
    return tuple(mp.mpf(value.numerator) / value.denominator for value in values)


def letter(name: str) -> Number:
    return Number(None, _samples(name), frozenset((name,)))


def opaque(name: str, *arguments: Number) -> Number:
    """Value of an unknown function: equal for equal arguments, unrelated to everything else."""
    mp = contexts.mp
    keys = [tuple(mp.nstr(point, 40) for point in row) for row in _aligned(*arguments)] if arguments else []
    letters = frozenset().union(*(argument.letters for argument in arguments))
    name = f"{name}({keys})"
    return Number(None, _samples(name), letters | {name})
