"""Numbers of answers: exact fractions where they are rational, else values at sample points to 200 digits.

A letter stands for fixed pseudo-random numbers, so two expressions are equal where they agree at every point
(identity testing). Every size is bounded, because the text that leads here is a model's: no value may leave
10^-40 .. 10^40 outside exact fractions, so no term can hide below the tolerance of 10^-100.
"""

import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import comb, factorial, isqrt
from typing import Any

from mpmath.ctx_mp import MPContext

DIGITS = 200
POINTS = 12  # sample points of every letter; the first four are positive, for functions of a limited domain
POSITIVE_POINTS = 4
MAX_BITS = 24_000  # of an exact numerator or denominator: 7,000 digits, 2100! fits
MAX_FACTORIAL = 2_100
MAX_POWER = 1_000
MAX_WORK = 30_000  # of one answer, in products of two points: about a third of a second
FUNCTION_WORK, GAMMA_WORK = 15, 150

Point = Any  # mpf or mpc


class NotExact(ValueError):
    """The expression has no value that can be compared."""


class TooBig(ValueError):
    """The expression is explosive and was not evaluated."""


class _Contexts(threading.local):
    """One mpmath context a thread: its functions change the precision while they run."""

    def __init__(self) -> None:
        self.mp = MPContext()
        self.mp.dps = DIGITS
        self.tolerance = self.mp.mpf(10) ** -100
        self.largest = self.mp.mpf(10) ** 40
        self.log_largest = self.mp.log(self.largest)
        self.work = 0


_contexts = _Contexts()


def start_answer() -> None:
    """Give the calling thread the work of one answer."""
    _contexts.work = 0


def _spend(work: int) -> None:
    _contexts.work += work
    if _contexts.work > MAX_WORK:
        raise TooBig("work")


def _bounded(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        raise TooBig("fraction")
    return value


def _checked(point: Point) -> Point:
    """The point, zero where only rounding is left of it."""
    mp = _contexts.mp
    if not mp.isfinite(point):
        raise NotExact("not finite")
    size = abs(point)
    if size < _contexts.tolerance:
        return mp.zero
    if size > _contexts.largest or size * _contexts.largest < 1:
        raise TooBig("magnitude")
    if isinstance(point, mp.mpc) and abs(point.imag) < _contexts.tolerance * size:
        return point.real
    return point


@dataclass(frozen=True, eq=False)
class Number:
    """`exact` if rational, else `points`: one value for a constant, POINTS values where letters occur."""

    exact: Fraction | None
    points: tuple[Point, ...]
    letters: frozenset[str] = frozenset()

    def at(self) -> tuple[Point, ...]:
        if self.exact is None:
            return self.points
        return (_checked(_contexts.mp.mpf(self.exact.numerator) / self.exact.denominator),)

    def __add__(self, other: "Number") -> "Number":
        if self.exact is not None and other.exact is not None:
            return rational(self.exact + other.exact)
        return combine(lambda a, b: a + b, self, other)

    def __neg__(self) -> "Number":
        if self.exact is not None:
            return rational(-self.exact)
        return Number(None, tuple(-point for point in self.points), self.letters)

    def __sub__(self, other: "Number") -> "Number":
        return self + -other

    def __mul__(self, other: "Number") -> "Number":
        if self.exact is not None and other.exact is not None:
            return rational(self.exact * other.exact)
        return combine(lambda a, b: a * b, self, other)

    def __truediv__(self, other: "Number") -> "Number":
        if other.is_zero():
            raise NotExact("division by zero")
        if self.exact is not None and other.exact is not None:
            return rational(self.exact / other.exact)
        return combine(lambda a, b: a / b, self, other)

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
        return None if isinstance(point, _contexts.mp.mpc) else point

    def equals(self, other: "Number") -> bool:
        """Equal at every sample point at which this number, the gold answer's, is real (at all if at none).

        A constant equals no expression in letters, whatever it comes to: 0 is not 1 xor 0.
        """
        if other.letters and not self.letters:
            return False
        if self.exact is not None and other.exact is not None:
            return self.exact == other.exact
        pairs = list(zip(*_aligned(self, other), strict=True))
        mp = _contexts.mp
        real = [pair for pair in pairs if not isinstance(pair[0], mp.mpc)]
        return all(_close(a, b) for a, b in (real if len(real) >= POSITIVE_POINTS else pairs))

    def ratio(self, other: "Number") -> Point | None:
        """The constant real factor between two expressions in letters that are never zero, else None."""
        try:
            quotient = self / other
        except NotExact:
            return None
        points = quotient.at()
        if any(isinstance(point, _contexts.mp.mpc) or not _close(points[0], point) for point in points):
            return None
        return points[0] if points[0] != 0 else None


def _close(a: Point, b: Point) -> bool:
    return abs(a - b) <= _contexts.tolerance * max(abs(a), abs(b))


def _aligned(*numbers: Number) -> list[tuple[Point, ...]]:
    """The points of all numbers, constants repeated."""
    points = [number.at() for number in numbers]
    count = max(map(len, points))
    return [row * count if len(row) == 1 else row for row in points]


def combine(function: Callable[..., Point], *numbers: Number, work: int = 1) -> Number:
    """A function applied point by point."""
    try:
        rows = list(zip(*_aligned(*numbers), strict=True))
        _spend(work * len(rows))
        values = tuple(_checked(function(*row)) for row in rows)
    except (ZeroDivisionError, OverflowError, ValueError) as error:
        if isinstance(error, TooBig | NotExact):
            raise
        raise NotExact(str(error)) from None
    return Number(None, values, frozenset().union(*(number.letters for number in numbers)))


def rational(value: Fraction | int) -> Number:
    return Number(_bounded(Fraction(value)), ())


def constant(name: str) -> Number:
    mp = _contexts.mp
    value = {"pi": +mp.pi, "e": mp.e + 0, "i": mp.mpc(0, 1)}[name]
    return Number(None, (value,))


@lru_cache(maxsize=4096)
def _random(name: str, index: int) -> Fraction:
    """A fixed number in 0.3 .. 3 for a name, negative at some points."""
    digest = hashlib.sha256(f"{name}/{index}".encode()).digest()
    size = Fraction(3, 10) + Fraction(int.from_bytes(digest[:12], "big"), 1 << 96) * Fraction(27, 10)
    return -size if index >= POSITIVE_POINTS and digest[12] & 1 else size


def _samples(name: str) -> tuple[Point, ...]:
    mp = _contexts.mp
    values = (_random(name, index) for index in range(POINTS))
    return tuple(mp.mpf(value.numerator) / value.denominator for value in values)


def letter(name: str) -> Number:
    return Number(None, _samples(name), frozenset((name,)))


def opaque(name: str, *arguments: Number) -> Number:
    """An unknown function: equal for equal arguments, unrelated to everything else."""
    mp = _contexts.mp
    keys = [tuple(mp.nstr(point, 40) for point in row) for row in _aligned(*arguments)] if arguments else []
    letters = frozenset().union(*(argument.letters for argument in arguments))
    name = f"{name}({keys})"
    return Number(None, _samples(name), letters | {name})


def power(base: Number, exponent: Number) -> Number:
    """base ** exponent: exact where it is rational; odd roots of negative numbers are the real ones."""
    n = exponent.exact
    if n is not None and base.exact is not None:
        if base.exact == 0 and n <= 0:
            raise NotExact("zero to a power that is not positive")
        if n.denominator == 1:
            return rational(_whole_power(base.exact, int(n)))
        root = _exact_root(base.exact, n)
        if root is not None:
            return rational(root)
    if n is not None and n.denominator == 1 and abs(n) > MAX_POWER:
        raise TooBig("power")
    return combine(lambda b, e: _point_power(b, e, n), base, exponent, work=FUNCTION_WORK)


def _whole_power(base: Fraction, n: int) -> Fraction:
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if abs(base) == 1:
        return base if n % 2 else Fraction(1)
    if base and (bits - 1) * abs(n) > MAX_BITS:
        raise TooBig("power")
    return base**n


def _exact_root(base: Fraction, exponent: Fraction) -> Fraction | None:
    """base ** exponent where it is rational, else None."""
    sign = 1
    if base < 0:
        if exponent.denominator % 2 == 0:
            return None
        sign = -1 if exponent.numerator % 2 else 1
    parts = [_integer_root(part, exponent.denominator) for part in (abs(base.numerator), base.denominator)]
    if parts[0] is None or parts[1] is None:
        return None
    return sign * _whole_power(Fraction(parts[0], parts[1]), exponent.numerator)


def _integer_root(value: int, degree: int) -> int | None:
    """The whole root, None if there is none."""
    if degree > 64 or value.bit_length() > MAX_BITS:
        raise TooBig("root")
    if degree == 2 or value == 0:
        root = isqrt(value)
    else:
        root = 1 << -(-value.bit_length() // degree)  # Newton's method from above
        while (step := ((degree - 1) * root + value // root ** (degree - 1)) // degree) < root:
            root = step
    return root if root**degree == value else None


def _point_power(base: Point, exponent: Point, n: Fraction | None) -> Point:
    mp = _contexts.mp
    if base == 0:
        if mp.re(exponent) <= 0:
            raise NotExact("zero to a power that is not positive")
        return mp.zero
    logarithm = exponent * mp.log(abs(base))
    if abs(mp.re(logarithm)) > _contexts.log_largest or abs(exponent) > _contexts.largest**0.5:
        raise TooBig("power")
    if n is not None and n.denominator == 1:
        return base ** int(n)
    if n is not None and n.denominator % 2 and not isinstance(base, mp.mpc) and base < 0:
        return (-1 if n.numerator % 2 else 1) * mp.exp(logarithm)
    return mp.exp(exponent * mp.log(base))


def _exponential(point: Point) -> Point:
    if abs(_contexts.mp.re(point)) > _contexts.log_largest:
        raise TooBig("exponential")
    return _contexts.mp.exp(point)


def _periodic(name: str) -> Callable[[Point], Point]:
    def function(point: Point) -> Point:
        if abs(_contexts.mp.im(point)) > _contexts.log_largest:
            raise TooBig(name)
        return getattr(_contexts.mp, name)(point)

    return function


def _hyperbolic(name: str) -> Callable[[Point], Point]:
    def function(point: Point) -> Point:
        if abs(_contexts.mp.re(point)) > _contexts.log_largest:
            raise TooBig(name)
        return getattr(_contexts.mp, name)(point)

    return function


def _rounded(round_point: str) -> Callable[[Point], Point]:
    def function(point: Point) -> Point:
        mp = _contexts.mp
        nearest = mp.nint(point)  # log_2 8 is 3 up to rounding
        return nearest if abs(point - nearest) < _contexts.tolerance else getattr(mp, round_point)(point)

    return function


FUNCTIONS: dict[str, Callable[[Point], Point]] = {
    **{name: _periodic(name) for name in ("sin", "cos", "tan", "cot", "sec", "csc")},
    **{name: _hyperbolic(name) for name in ("sinh", "cosh", "tanh", "coth", "sech", "csch")},
    **{
        name: lambda point, inverse=inverse: getattr(_contexts.mp, inverse)(point)
        for name, inverse in {
            "arcsin": "asin", "arccos": "acos", "arctan": "atan", "arccot": "acot", "arcsec": "asec",
            "arccsc": "acsc", "arsinh": "asinh", "arcosh": "acosh", "artanh": "atanh",
        }.items()
    },
    "ln": lambda point: _contexts.mp.log(point),
    "exp": _exponential,
    "abs": abs,
    "Re": lambda point: _contexts.mp.re(point),
    "Im": lambda point: _contexts.mp.im(point),
    "arg": lambda point: _contexts.mp.arg(point),
    "floor": _rounded("floor"),
    "ceil": _rounded("ceil"),
}  # fmt: skip


def apply(name: str, argument: Number) -> Number:
    """A named function of one argument."""
    if argument.exact is not None and name in ("abs", "floor", "ceil"):
        exact = {"abs": abs, "floor": Fraction.__floor__, "ceil": Fraction.__ceil__}[name]
        return rational(exact(argument.exact))
    return combine(FUNCTIONS[name], argument, work=FUNCTION_WORK)


def logarithm(argument: Number, base: Number | None) -> Number:
    """log of a known base, or of one that the text leaves open: no base of a plain log is assumed."""
    if argument.is_zero():
        raise NotExact("log of zero")
    if base is None:
        base = Number(None, (_contexts.mp.mpf(_random("base of log", 0).numerator) / (1 << 96) + 3,))
    elif base.is_zero() or base.equals(rational(1)):
        raise NotExact("base of a logarithm")
    return combine(lambda a, b: _contexts.mp.log(a) / _contexts.mp.log(b), argument, base, work=FUNCTION_WORK)


def factorial_of(value: Number) -> Number:
    n = value.exact
    if n is None:
        return combine(_gamma, value + rational(1), work=GAMMA_WORK)
    if n.denominator != 1 or n < 0:
        raise NotExact("factorial")
    if n > MAX_FACTORIAL:
        raise TooBig("factorial")
    return rational(factorial(int(n)))


def _gamma(point: Point) -> Point:
    if abs(point) > 40:
        raise TooBig("factorial")
    return _contexts.mp.gamma(point)


def binomial_of(top: Number, bottom: Number) -> Number:
    n, k = top.exact, bottom.exact
    if n is None or k is None:
        return factorial_of(top) / (factorial_of(bottom) * factorial_of(top - bottom))
    if n.denominator != 1 or k.denominator != 1 or min(n, k) < 0:
        raise NotExact("binomial")
    if n > MAX_BITS and min(k, n - k) * int(n).bit_length() > MAX_BITS:  # C(n, k) < 2^n
        raise TooBig("binomial")
    return rational(comb(int(n), int(k)))
