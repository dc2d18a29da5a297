"""Exact arithmetic of answers: quotients of sums of c * p1^(a1/b1) * ... * x^k * ..., all coefficients rational.

A product of powers is a `Monomial`: sorted (base, exponent) pairs. A base is a prime (a radical, exponent in (0, 1)),
-1 (the imaginary unit, exponent 1/2) or a name (a letter, `pi`, or an atom). Atoms, whose names begin with "@", stand
for what this arithmetic does not see into, such as a sine. Without atoms, two values are equal exactly when their
quotients are (radicals of primes are linearly independent over the rationals); with them only "equal" is certain.

Every size is bounded, for the text that leads here is a model's: `TooBig` past a bound, `NotExact` outside the field.
"""

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from math import comb, factorial, isqrt

MAX_BITS = 24_000  # of one coefficient: 7,000 digits, 2100! fits
MAX_TERMS = 300  # of one sum
MAX_POWER_OF_SUM = 24
MAX_FACTORIAL = 2_100
TRIAL_LIMIT = 4_000  # the largest divisor tried, so that whatever is left below its square is a prime

Base = int | str
Monomial = tuple[tuple[Base, Fraction], ...]
Sum = dict[Monomial, Fraction]


class NotExact(ValueError):
    """The expression is outside the field."""


class TooBig(ValueError):
    """The expression is explosive: it was not evaluated."""


def _check(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        raise TooBig("coefficient")
    return value


def rational_power(value: Fraction, exponent: int) -> Fraction:
    """value ** exponent; the size is checked before the work."""
    size = max(value.numerator.bit_length(), value.denominator.bit_length())
    if abs(value) != 1 and value and (size - 1) * abs(exponent) > MAX_BITS:
        raise TooBig("power")
    if value == 0 and exponent <= 0:
        raise NotExact("zero to a power that is not positive")
    return value**exponent if abs(value) != 1 else (value if exponent % 2 else Fraction(1))


def _normal_monomial(powers: dict[Base, Fraction]) -> tuple[Monomial, Fraction]:
    """Whole powers of primes go to the coefficient, i * i to -1."""
    coefficient, kept = Fraction(1), []
    for base, power in powers.items():
        if isinstance(base, int):
            whole, power = power.__floor__(), power - power.__floor__()
            coefficient *= rational_power(Fraction(base), whole)
        if power:
            kept.append((base, power))
    return tuple(sorted(kept, key=lambda pair: (isinstance(pair[0], str), pair[0]))), coefficient


def _add(a: Sum, b: Sum) -> Sum:
    total = dict(a)
    for monomial, coefficient in b.items():
        value = _check(total.get(monomial, Fraction(0)) + coefficient)
        if value:
            total[monomial] = value
        else:
            total.pop(monomial, None)
    if len(total) > MAX_TERMS:
        raise TooBig("terms")
    return total


def _multiply(a: Sum, b: Sum) -> Sum:
    if len(a) * len(b) > 8 * MAX_TERMS:
        raise TooBig("terms")
    total: Sum = {}
    for left, c in a.items():
        for right, d in b.items():
            powers = dict(left)
            for base, power in right:
                powers[base] = powers.get(base, Fraction(0)) + power
            monomial, extra = _normal_monomial(powers)
            total[monomial] = total.get(monomial, Fraction(0)) + _check(c * d * extra)
    if len(total) > MAX_TERMS:
        raise TooBig("terms")
    return {monomial: c for monomial, c in total.items() if c}


def _prime_powers(n: int) -> dict[int, int]:
    """Factors of n >= 1 with their multiplicities; NotExact where trial division does not settle it."""
    found: dict[int, int] = {}
    divisor = 2
    while divisor <= TRIAL_LIMIT and divisor * divisor <= n:
        while n % divisor == 0:
            found[divisor] = found.get(divisor, 0) + 1
            n //= divisor
        divisor += 1 if divisor == 2 else 2
    if n > TRIAL_LIMIT**2:
        root = isqrt(n)
        if root * root != n or root > TRIAL_LIMIT**2:
            raise NotExact("a large number under a root")
        found[root] = found.get(root, 0) + 2
    elif n > 1:
        found[n] = found.get(n, 0) + 1
    return found


def _rational_root(value: Fraction, exponent: Fraction) -> Sum:
    """value ** exponent for an exponent that is not whole; odd roots of negative numbers are the real ones."""
    if abs(exponent) > 1000 or exponent.denominator > 10_000:
        raise TooBig("root")
    if value == 0:
        if exponent < 0:
            raise NotExact("division by zero")
        return {}
    powers: dict[Base, Fraction] = {}
    sign = Fraction(1)
    if value < 0:
        if exponent.denominator % 2:
            sign = Fraction(-1 if exponent.numerator % 2 else 1)
        elif exponent.denominator == 2:
            powers[-1] = exponent
        else:
            raise NotExact("an even root of a negative number")
    for number, direction in ((abs(value.numerator), 1), (value.denominator, -1)):
        if number.bit_length() > 4_000:
            raise TooBig("root")
        for prime, multiplicity in _prime_powers(number).items():
            powers[prime] = powers.get(prime, Fraction(0)) + direction * multiplicity * exponent
    monomial, coefficient = _normal_monomial(powers)
    return {monomial: _check(sign * coefficient)}


@dataclass(frozen=True, eq=False)
class Exact:
    """numerator / denominator, both sums; compare with `equals`."""

    numerator: Sum
    denominator: Sum

    def __add__(self, other: "Exact") -> "Exact":
        if self.denominator == other.denominator:
            return Exact(_add(self.numerator, other.numerator), self.denominator)
        crossed = _add(_multiply(self.numerator, other.denominator), _multiply(other.numerator, self.denominator))
        return Exact(crossed, _multiply(self.denominator, other.denominator))

    def __mul__(self, other: "Exact") -> "Exact":
        return Exact(_multiply(self.numerator, other.numerator), _multiply(self.denominator, other.denominator))

    def __neg__(self) -> "Exact":
        return Exact({monomial: -c for monomial, c in self.numerator.items()}, self.denominator)

    def __truediv__(self, other: "Exact") -> "Exact":
        if not other.numerator:
            raise NotExact("division by zero")
        if len(other.numerator) == 1:  # keep the denominator 1 wherever a single term divides
            ((monomial, c),) = other.numerator.items()
            inverse, extra = _normal_monomial({base: -power for base, power in monomial})
            return Exact(
                _multiply(_multiply(self.numerator, other.denominator), {inverse: extra / c}), self.denominator
            )
        return Exact(_multiply(self.numerator, other.denominator), _multiply(self.denominator, other.numerator))

    def equals(self, other: "Exact") -> bool:
        """Equal as quotients. False is a proof of difference only if both are `closed`."""
        return _multiply(self.numerator, other.denominator) == _multiply(other.numerator, self.denominator)

    def proportional(self, other: "Exact") -> bool:
        """Equal up to a rational factor that is not zero: the same equation, if both are set to zero."""
        left, right = _multiply(self.numerator, other.denominator), _multiply(other.numerator, self.denominator)
        if not left or left.keys() != right.keys():
            return False
        ratios = {coefficient / right[monomial] for monomial, coefficient in left.items()}
        return len(ratios) == 1

    @cached_property
    def names(self) -> frozenset[str]:
        """Letters, `pi`, atoms: everything that is not a number."""
        sums = (self.numerator, self.denominator)
        return frozenset(base for s in sums for monomial in s for base, _ in monomial if isinstance(base, str))

    @property
    def closed(self) -> bool:
        return not any(name.startswith("@") for name in self.names)

    @property
    def fraction(self) -> Fraction | None:
        """The value if it is a rational number."""
        if not self.numerator:
            return Fraction(0)
        if set(self.numerator) == {()} == set(self.denominator):
            return self.numerator[()] / self.denominator[()]
        return None

    @property
    def key(self) -> str:
        """A name for atoms built on this value; equal keys are equal values."""
        lead = self.denominator[min(self.denominator, key=repr)]
        parts = [
            sorted((repr(m), str_fraction(c / lead)) for m, c in s.items()) for s in (self.numerator, self.denominator)
        ]
        text = repr(parts)
        if len(text) > 4_000:
            raise TooBig("atom")
        return text


def str_fraction(value: Fraction) -> str:
    """Hexadecimal, since decimal output stops at Python's 4300 digits."""
    return f"{value.numerator:x}/{value.denominator:x}"


ONE: Sum = {(): Fraction(1)}
INFINITY = "infinity"


def number(value: Fraction | int) -> Exact:
    value = _check(Fraction(value))
    return Exact({(): value} if value else {}, ONE)


def symbol(name: str) -> Exact:
    return Exact({((name, Fraction(1)),): Fraction(1)}, ONE)


IMAGINARY_UNIT = Exact({((-1, Fraction(1, 2)),): Fraction(1)}, ONE)


def atom(kind: str, *arguments: Exact) -> Exact:
    return symbol("@" + kind + "".join(f"({argument.key})" for argument in arguments))


def power(base: Exact, exponent: Exact) -> Exact:
    """base ** exponent; an atom where the field has no such element."""
    n, value = exponent.fraction, base.fraction
    if n is not None and n.denominator == 1:
        if value is not None:
            return number(rational_power(value, int(n)))
        return _whole_power(base, int(n))
    if n is not None and value is not None:
        return Exact(_rational_root(value, n), ONE)
    if n is not None and len(base.numerator) == 1 and base.denominator == ONE:
        ((monomial, c),) = base.numerator.items()
        if c > 0 and all(p == 1 and b != INFINITY for b, p in monomial if isinstance(b, str)) and len(monomial) <= 4:
            powers = {b: p * n for b, p in monomial if b != -1}
            if len(powers) == len(monomial) and abs(n) < 1000:
                rest, extra = _normal_monomial(powers)
                return Exact(_multiply(_rational_root(c, n), {rest: extra}), ONE)
    return atom("power", base, exponent)


def _whole_power(base: Exact, n: int) -> Exact:
    terms = max(len(base.numerator), len(base.denominator))
    if abs(n) > (MAX_POWER_OF_SUM if terms > 1 else 100_000):
        return atom("power", base, number(n))
    result, square = number(1), base if n >= 0 else number(1) / base
    n = abs(n)
    while n:
        if n & 1:
            result = result * square
        n >>= 1
        square = square * square if n else square
    return result


def factorial_of(value: Exact) -> Exact:
    n = value.fraction
    if n is None:
        return atom("factorial", value)
    if n.denominator != 1 or n < 0:
        raise NotExact("factorial")
    if n > MAX_FACTORIAL:
        raise TooBig("factorial")
    return number(factorial(int(n)))


def binomial_of(top: Exact, bottom: Exact) -> Exact:
    n, k = top.fraction, bottom.fraction
    if n is None or k is None:
        return atom("binomial", top, bottom)
    if n.denominator != 1 or k.denominator != 1 or min(n, k) < 0:
        raise NotExact("binomial")
    if n > MAX_BITS and min(k, n - k) * int(n).bit_length() > MAX_BITS:  # C(n, k) < 2^n
        raise TooBig("binomial")
    return number(comb(int(n), int(k)))
