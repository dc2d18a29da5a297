r"""Inequalities as intervals: 2 < x \le 3, x > 5, -x > -1, -1 < 2x + 1 < 5."""

from collections.abc import Callable

from rpg_openrlhf.rewards import numbers
from rpg_openrlhf.rewards.numbers import Number
from rpg_openrlhf.rewards.values import INFINITY, MINUS_INFINITY, Bag, Leaf, Relation, Row, Tokens, Value

_UPWARD = frozenset(("<", r"\le"))
_RELATIONS = frozenset(("<", ">", r"\le", r"\ge", r"\ne"))


def interval_of(tokens: Tokens, value: Callable[[Tokens], Value]) -> Value | None:
    r"""An interval, or a Relation that is none; for x \ne 3 the excluded points; None without a relation sign."""
    sides, signs = _sides(tokens)
    if not signs:
        return None
    if not all(sides) or len(sides) > 3:
        return Leaf(tokens)
    values = [value(side) for side in sides]
    if signs == [r"\ne"]:
        return Bag("set", (values[1],)) if _variable(values[0]) else Leaf(tokens)
    upward = [sign in _UPWARD for sign in signs]
    if r"\ne" in signs or len(set(upward)) > 1:
        return Leaf(tokens)
    closed = [sign in (r"\le", r"\ge") for sign in signs]
    if not upward[0]:
        values, closed = values[::-1], closed[::-1]
    if len(values) == 3:
        return _between(values, closed) or Leaf(tokens)
    return _half_line(values[0], values[1], closed[0]) or _relation(values, closed[0], tokens)


def _sides(tokens: Tokens) -> tuple[list[Tokens], list[str]]:
    """The parts between relation signs outside brackets, and the signs."""
    depth, start, sides, signs = 0, 0, [], []
    for index, token in enumerate(tokens):
        if depth == 0 and token.text in _RELATIONS:
            sides.append(tokens[start:index])
            signs.append(token.text)
            start = index + 1
        depth += (token.text in ("(", "[", "{", r"\{")) - (token.text in (")", "]", "}", r"\}"))
    return [*sides, tokens[start:]], signs


def _variable(value: Value) -> str | None:
    """The letter that an expression consists of."""
    if not isinstance(value, Leaf) or value.number is None or value.percent or value.unit:
        return None
    letters = value.number.letters
    return min(letters) if len(letters) == 1 and value.number.equals(numbers.letter(min(letters))) else None


def _between(values: list[Value], closed: list[bool]) -> Value | None:
    """low < x < high, low < a x + b < high."""
    low, middle, high = values
    variable = _variable(middle)
    if variable is None:
        line = _line(middle)
        if line is None or not all(isinstance(end, Leaf) and end.constant for end in (low, high)):
            return None
        slope, offset, variable = line
        low, high = (Leaf((), computed=(end.constant - offset) / slope) for end in (low, high))  # type: ignore[union-attr]
        if _is_negative(slope):
            low, high, closed = high, low, closed[::-1]
    return Row("(["[closed[0]] + ")]"[closed[1]], (low, high), variable)


def _half_line(left: Value, right: Value, closed: bool) -> Value | None:
    """left < right, where one side is a letter, or both together are linear in one letter."""
    if (variable := _variable(left)) is not None:
        return Row("(" + ")]"[closed], (MINUS_INFINITY, right), variable)
    if (variable := _variable(right)) is not None:
        return Row("(["[closed] + ")", (left, INFINITY), variable)
    if not (isinstance(left, Leaf) and isinstance(right, Leaf) and left.number and right.number):
        return None
    line = _line(Leaf((), computed=left.number - right.number))
    if line is None:
        return None
    slope, offset, variable = line
    end = Leaf((), computed=-offset / slope)
    if _is_negative(slope):
        return Row("(["[closed] + ")", (end, INFINITY), variable)
    return Row("(" + ")]"[closed], (MINUS_INFINITY, end), variable)


def _relation(values: list[Value], closed: bool, tokens: Tokens) -> Value:
    left, right = (value.number if isinstance(value, Leaf) else None for value in values)
    return Leaf(tokens) if left is None or right is None else Relation(left - right, not closed, tokens)


def _line(value: Value) -> tuple[Number, Number, str] | None:
    """(a, b, x) of an expression a x + b in one letter x."""
    if not isinstance(value, Leaf) or value.number is None or len(value.number.letters) != 1:
        return None
    variable = min(value.number.letters)
    x, y = numbers.letter(variable).points, value.number.points
    slope = Number(None, ((y[1] - y[0]) / (x[1] - x[0]),))
    offset = Number(None, (y[0],)) - slope * Number(None, (x[0],))
    is_line = value.number.equals(slope * numbers.letter(variable) + offset)
    return (slope, offset, variable) if is_line and not slope.is_zero() and slope.real() is not None else None


def _is_negative(number: Number) -> bool:
    real = number.real()
    return real is not None and real < 0
