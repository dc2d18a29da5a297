"""Functions of numbers: exact if the result is rational, else point by point. Size and work are bounded."""

from collections.abc import Callable
from fractions import Fraction
from math import ceil, comb, factorial, floor, isqrt

from rpg_openrlhf.rewards.numbers import (
    MAX_BITS,
    NotExact,
    Number,
    Point,
    TooBig,
    combine,
    contexts,
    pseudo_random,
    rational,
    spend,
)

MAX_FACTORIAL = 2_100
MAX_POWER = 1_000
FUNCTION_WORK, GAMMA_WORK = 15, 150


def power(base: Number, exponent: Number) -> Number:
    """base ** exponent: exact if it is rational; odd roots of negative numbers are the real ones."""
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
    """base ** exponent if it is rational, else None."""
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
    """The root if it is an integer, else None."""
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
    mp = contexts.mp
    if base == 0:
        if mp.re(exponent) <= 0:
            raise NotExact("zero to a power that is not positive")
        return mp.zero
    logarithm = exponent * mp.log(abs(base))
    if abs(mp.re(logarithm)) > contexts.log_largest or abs(exponent) > contexts.largest**0.5:
        raise TooBig("power")
    if n is not None and n.denominator == 1:
        return base ** int(n)
    if n is not None and n.denominator % 2 and not isinstance(base, mp.mpc) and base < 0:
        return (-1 if n.numerator % 2 else 1) * mp.exp(logarithm)
    return mp.exp(exponent * mp.log(base))


def _within(part: str, name: str) -> Callable[[Point], Point]:
    """mpmath's function `name`; TooBig if the point's `part` (re or im) makes the result too large."""

    def function(point: Point) -> Point:
        if abs(getattr(contexts.mp, part)(point)) > contexts.log_largest:
            raise TooBig(name)
        return getattr(contexts.mp, name)(point)

    return function


def _unbounded(name: str) -> Callable[[Point], Point]:
    return lambda point: getattr(contexts.mp, name)(point)


def _rounded(round_point: str) -> Callable[[Point], Point]:
    def function(point: Point) -> Point:
        mp = contexts.mp
        nearest = mp.nint(point)  # log_2 8 is 3 up to rounding
        return nearest if abs(point - nearest) < contexts.tolerance else getattr(mp, round_point)(point)

    return function


TRIGONOMETRY = ("sin", "cos", "tan", "cot", "sec", "csc")
FUNCTIONS: dict[str, Callable[[Point], Point]] = {
    **{name: _within("im", name) for name in TRIGONOMETRY},
    **{name: _within("re", name) for name in ("sinh", "cosh", "tanh", "coth", "exp")},
    **{f"arc{name}": _unbounded(f"a{name}") for name in TRIGONOMETRY},
    **{name: _unbounded(name.lower()) for name in ("ln", "Re", "Im", "arg")},
}
_SIGNS: dict[str, tuple[Callable[[Fraction], Fraction | int], Callable[[Point], Point]]] = {
    "abs": (abs, abs),
    "floor": (floor, _rounded("floor")),
    "ceil": (ceil, _rounded("ceil")),
}


def apply(name: str, argument: Number) -> Number:
    """Apply a function of one argument; abs, floor and ceil are written as signs."""
    exact, function = _SIGNS.get(name) or (None, FUNCTIONS[name])
    if exact and argument.exact is not None:
        return rational(exact(argument.exact))
    return combine(function, argument, work=FUNCTION_WORK)


def logarithm(argument: Number, base: Number | None) -> Number:
    """Logarithm to a base. Without one, to a fixed pseudo-random base, so that log x is neither ln x nor log_10 x."""
    if argument.is_zero():
        raise NotExact("log of zero")
    if base is None:
        base = Number(None, (contexts.mp.mpf(pseudo_random("base of log", 0).numerator) / (1 << 96) + 3,))
    elif base.is_zero() or base.equals(rational(1)):
        raise NotExact("base of a logarithm")
    return combine(lambda a, b: contexts.mp.log(a) / contexts.mp.log(b), argument, base, work=FUNCTION_WORK)


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
    return contexts.mp.gamma(point)


def binomial_of(top: Number, bottom: Number) -> Number:
    n, k = top.exact, bottom.exact
    if n is None or k is None:
        return factorial_of(top) / (factorial_of(bottom) * factorial_of(top - bottom))
    if n.denominator != 1 or k.denominator != 1 or min(n, k) < 0:
        raise NotExact("binomial")
    if n > MAX_BITS and min(k, n - k) * int(n).bit_length() > MAX_BITS:  # C(n, k) < 2^n
        raise TooBig("binomial")
    spend(int(n) // 40)  # exact work, in the units of MAX_WORK
    return rational(comb(int(n), int(k)))
