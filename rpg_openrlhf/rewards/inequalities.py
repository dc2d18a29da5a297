r"""Intervals of inequalities (2 < x \le 3, x > 5, -x > -1, -1 < 2x + 1 < 5), and intervals without some points."""

import itertools
from collections.abc import Callable
from operator import itemgetter

from rpg_openrlhf.rewards.numbers import Number, Point, letter, rational
from rpg_openrlhf.rewards.token_text import split_top
from rpg_openrlhf.rewards.values import INFINITY, MINUS_INFINITY, Bag, Leaf, Relation, Row, Tokens, Value

_UPWARD = frozenset(("<", r"\le"))
_RELATIONS = frozenset(("<", ">", r"\le", r"\ge", r"\ne"))
_OPPOSITE: dict[Value, Value] = {INFINITY: MINUS_INFINITY, MINUS_INFINITY: INFINITY}


def interval_of(tokens: Tokens, value: Callable[[Tokens], Value]) -> Value | None:
    r"""An interval, or a Relation if it is not one; for x \ne 3 the excluded points; None without a relation sign."""
    sides = split_top(tokens, *_RELATIONS)
    if len(sides) < 2:
        return None
    signs = [tokens[end - 1].text for end in itertools.accumulate(len(side) + 1 for side in sides[:-1])]
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
    return _half_line(values[0], values[1], closed[0]) or Leaf(tokens)


def _variable(value: Value) -> str | None:
    """The letter, if the expression is a single letter; else None."""
    if not isinstance(value, Leaf) or value.number is None or value.percent or value.unit:
        return None
    letters = value.number.letters
    return min(letters) if len(letters) == 1 and value.number.equals(letter(min(letters))) else None


def _half_line(left: Value, right: Value, closed: bool) -> Value | None:
    """Interval of left < right if one side is a letter, or their difference is linear in one; else a Relation."""
    if (variable := _variable(left)) is not None:
        return Row("(" + ")]"[closed], (MINUS_INFINITY, right), variable)
    if (variable := _variable(right)) is not None:
        return Row("(["[closed] + ")", (left, INFINITY), variable)
    if not (isinstance(left, Leaf) and isinstance(right, Leaf) and left.number and right.number):
        return None
    difference = left.number - right.number
    middle, zero = Leaf((), computed=difference), Leaf((), computed=rational(0))
    return _between([MINUS_INFINITY, middle, zero], [False, closed]) or Relation(difference, not closed)


def _between(values: list[Value], closed: list[bool]) -> Row | None:
    """Interval of low < x < high or low < a x + b < high; else None."""
    low, middle, high = values
    variable = _variable(middle)
    if variable is None:
        line = _line(middle)
        if line is None or not all(
            end in _OPPOSITE or (isinstance(end, Leaf) and end.constant) for end in (low, high)
        ):
            return None
        slope, offset, variable = line
        is_falling = slope.at()[0] < 0
        low, high = (
            (_OPPOSITE[end] if is_falling else end)
            if end in _OPPOSITE
            else Leaf((), computed=(end.constant - offset) / slope)  # type: ignore[union-attr]
            for end in (low, high)
        )
        if is_falling:
            low, high, closed = high, low, closed[::-1]
    return Row("(["[closed[0]] + ")]"[closed[1]], (low, high), variable)


def _line(value: Value) -> tuple[Number, Number, str] | None:
    """(a, b, x) of an expression a x + b in one letter x, with a real and not zero; else None."""
    if not isinstance(value, Leaf) or value.number is None or len(value.number.letters) != 1:
        return None
    variable = min(value.number.letters)
    x, y = letter(variable).points, value.number.points
    slope = Number(None, ((y[1] - y[0]) / (x[1] - x[0]),))
    offset = Number(None, (y[0],)) - slope * Number(None, (x[0],))
    is_line = value.number.equals(slope * letter(variable) + offset)
    return (slope, offset, variable) if is_line and not slope.is_zero() and slope.real() is not None else None


def without_points(left: Value, right: Value) -> Bag | None:
    """Intervals without some real points, as a union; None if the order of points is unknown."""
    intervals = list(left.items) if isinstance(left, Bag) and left.kind == "union" else [left]
    points = right.items if isinstance(right, Bag) else ()
    places = [_place(point) for point in points]
    if not points or any(place is None for place in places):
        return None
    for place, point in sorted(zip(places, points, strict=True), key=itemgetter(0)):
        split = [_split_at(interval, place, point) for interval in intervals]
        if not all(split):
            return None
        intervals = list(itertools.chain.from_iterable(split))
    return Bag("union", tuple(intervals))


def _split_at(interval: Value, place: Point, point: Value) -> list[Value]:
    """The parts left and right of a point in an interval, or the interval itself; empty if that is unknown."""
    if not isinstance(interval, Row) or len(interval.items) != 2 or interval.brackets not in ("()", "[]", "(]", "[)"):
        return []
    first, last = interval.items
    low, high = _place(first), _place(last)
    if low is None or high is None:
        return []
    if not low < place < high:
        return [interval] if place < low or place > high else []
    return [Row(interval.brackets[0] + ")", (first, point)), Row("(" + interval.brackets[1], (point, last))]


def _place(value: Value) -> Point | None:
    """Place of a value on the real line, or None."""
    if value in _OPPOSITE:
        return float("inf") if value == INFINITY else float("-inf")
    return value.constant.real() if isinstance(value, Leaf) and value.constant else None
