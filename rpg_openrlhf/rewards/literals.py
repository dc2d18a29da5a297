"""Number literals of any length, exactly."""

import re
from fractions import Fraction

from rpg_openrlhf.rewards.numbers import TooBig

MAX_DIGITS_EXPONENT = 4  # 1e9999 is the largest literal
_INTEGER = re.compile(r"([+-]?)(\d+|\d{1,3}(?:,\d{3})+)(?:\.0*)?", re.ASCII)


def plain_integer(text: str) -> str | None:
    """The canonical digits of an integer such as 042, +7, 42.0 or 1,234, or None: integers compare as strings."""
    match = _INTEGER.fullmatch(text)
    if match is None:
        return None
    digits = match.group(2).replace(",", "").lstrip("0") or "0"
    return "-" + digits if match.group(1) == "-" and digits != "0" else digits


def whole_number(digits: str) -> int:
    """int(digits) at any length: Python's own refuses more than 4300 digits."""
    value = 0
    for start in range(0, len(digits), 4000):
        chunk = digits[start : start + 4000]
        value = value * 10 ** len(chunk) + int(chunk)
    return value


def decimal_fraction(literal: str) -> Fraction:
    """An unsigned literal such as 12, .5, 3. or 4.5e33, exactly."""
    mantissa, _, exponent = literal.lower().partition("e")
    whole, _, fraction = mantissa.partition(".")
    if len(exponent.lstrip("+-0")) > MAX_DIGITS_EXPONENT:
        raise TooBig("exponent")
    shift = int(exponent or 0) - len(fraction)
    digits = whole_number(whole + fraction) if whole + fraction else 0
    return Fraction(digits * 10**shift) if shift >= 0 else Fraction(digits, 10**-shift)
