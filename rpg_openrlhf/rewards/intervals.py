"""Intervals of the real line without some of their points."""

from operator import itemgetter

from rpg_openrlhf.rewards.values import INFINITY, MINUS_INFINITY, Bag, Leaf, Row, Value


def without_points(left: Value, right: Value) -> Bag | None:
    """Intervals without some real points, as a union; None where that cannot be known."""
    intervals = list(left.items) if isinstance(left, Bag) and left.kind == "union" else [left]
    points = right.items if isinstance(right, Bag) else ()
    located = []
    for point in points:
        place = point.constant.real() if isinstance(point, Leaf) and point.constant else None
        if place is None:
            return None
        located.append((place, point))
    if not located:
        return None
    for place, point in sorted(located, key=itemgetter(0)):
        split = [_split_at(interval, place, point) for interval in intervals]
        if any(part is None for part in split):
            return None
        intervals = [piece for part in split if part for piece in part]
    return Bag("union", tuple(intervals))


def _split_at(interval: Value, place: object, point: Value) -> list[Value] | None:
    """The open interval left and right of a point inside it."""
    if not isinstance(interval, Row) or len(interval.items) != 2 or interval.brackets not in ("()", "[]", "(]", "[)"):
        return None
    low, high = (_place(item) for item in interval.items)
    if low is None or high is None:
        return None
    if not low < place < high:  # type: ignore[operator]
        return [interval] if place < low or place > high else None  # type: ignore[operator]
    first, last = interval.items
    return [Row(interval.brackets[0] + ")", (first, point)), Row("(" + interval.brackets[1], (point, last))]


def _place(item: Value) -> object | None:
    if item in (INFINITY, MINUS_INFINITY):
        return float("inf") if item == INFINITY else float("-inf")
    return item.constant.real() if isinstance(item, Leaf) and item.constant else None
