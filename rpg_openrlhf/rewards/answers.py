"""The closed grammar of answers: text to the values of `values.py`."""

import itertools
import re
from collections.abc import Callable

from rpg_openrlhf.rewards.exact import TooBig
from rpg_openrlhf.rewards.notation import clean, strip_units
from rpg_openrlhf.rewards.values import Bag, Based, Equation, Leaf, Row, Value, Words

MAX_ITEMS = 200
MAX_SIGNS = 4  # \pm signs in one answer, each doubles it


Inner = Callable[[str], Value]  # reads a part of the text one level deeper

_OPEN, _CLOSE = "([{", ")]}"
_LIST = re.compile(
    r"\s*(?:,|;|\\lor|\\text\{,?\s*(?:or|and)\s*\}|(?<![A-Za-z\\])(?:or|and)(?![A-Za-z]))\s*(?:or\b|and\b)?"
)
_RELATION = re.compile(r"\\le(?![A-Za-z])|\\ge(?![A-Za-z])|<|>")
_IN = re.compile(r"\\in(?![A-Za-z])")
_CUP = re.compile(r"\\cup(?![A-Za-z])")
_EQUALS = re.compile(r"=")
_APPROX = re.compile(r"\\(?:approx|simeq|thickapprox)(?![A-Za-z])")
_MATRIX_NAME = re.compile(r"(?:[A-Za-z]|\\(?:mathbf|vec|boldsymbol|bm)\s*\{\w+\})\s*=\s*")
_COLON = re.compile(r":")
_BASED = re.compile(r"([0-9A-Za-z]+)\s*_\s*(?:\{\s*(?:\\text\{)?\s*([0-9]{1,2}|[a-z]{3,8})\s*\}?\s*\}|([0-9]))")
_NUMERALS = """
    two three four five six seven eight nine ten eleven twelve sixteen
"""
_BASE_NAMES: dict[str, int] = dict(zip(_NUMERALS.split(), [*range(2, 13), 16], strict=True))
_SIGN = re.compile(r"\\(pm|mp)(?![A-Za-z])")
_MATRIX = re.compile(r"\\begin\{([pbBvV]?matrix|array)\}(?:\{[lcr|]*\})?(.*)\\end\{\1\}", re.DOTALL)
_PROSE = re.compile(r"[A-Za-z][A-Za-z'.-]*(?: [A-Za-z'.-]+)*")
_SHORT_WORDS = frozenset(("yes", "no", "odd", "all", "one", "two", "six", "ten", "red", "tie", "dne"))
_LEAD = re.compile(
    r"(?:[A-Za-z][A-Za-z' ,]*\s)?(?:is|are|equals|be)\s*:?\s+(?=\S)|(?:either|approximately|about|exactly|only)\s+",
    re.IGNORECASE,
)
_THOUSANDS_GROUP = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?!\d|,\d)")
_SPACED_THOUSANDS = re.compile(r"[+-]?\d{1,3}(?: \d{3})+(?:\.\d+)?")


def split_top(text: str, separator: re.Pattern[str]) -> list[str]:
    """Split at separators outside all brackets; half-open intervals count as brackets too."""
    depth, depths = 0, []
    for character in text:
        depth += (character in _OPEN) - (character in _CLOSE)
        depths.append(depth)
    parts, start = [], 0
    for match in separator.finditer(text):
        if depths[match.start()] == 0 and match.start() >= start:
            parts.append(text[start : match.start()])
            start = match.end()
    parts.append(text[start:])
    if len(parts) > MAX_ITEMS:
        raise TooBig("items")
    return [part.strip() for part in parts]


def readings(text: str, bare_letters: bool = False) -> list[Value]:
    """Every value the text may stand for: 1,234 is a number or a list of two."""
    matrix = _matrix(text, bare_letters)
    if matrix is not None:
        return [matrix]
    text = clean(text)
    if not text:
        return []
    found = [_value(text, bare_letters)]
    if not re.search(r"[(\[]|\\\{", text):
        merged = _THOUSANDS_GROUP.sub(lambda match: match.group().replace(",", ""), text)
        if merged != text:
            found.insert(0, _value(merged, bare_letters))
    return found


def _matrix(text: str, bare_letters: bool) -> Row | None:
    text = _MATRIX_NAME.sub("", text.strip(" \n$."), count=1)
    text = re.sub(r"^\\left\s*[(\[]\s*(?=\\begin)|(?<=\})\s*\\right\s*[)\]]$", "", text)
    match = _MATRIX.fullmatch(text)
    if match is None or "\\begin" in match.group(2):
        return None
    rows = [row for row in re.split(r"\\\\(?:\[[^\]]*\])?|\\cr", match.group(2)) if row.strip()]
    cells = [tuple(_value(clean(cell) or "?", bare_letters) for cell in row.split("&")) for row in rows]
    if sum(map(len, cells)) > MAX_ITEMS:
        raise TooBig("items")
    return Row("matrix", tuple(Row("row", row) for row in cells))


def _value(text: str, bare_letters: bool, depth: int = 0) -> Value:
    if depth > 8:
        raise TooBig("depth")

    def inner(part: str) -> Value:
        return _value(part, bare_letters, depth + 1)

    text = strip_units(text, bare_letters)
    unions = split_top(text, _CUP)
    if len(unions) > 1:
        return Bag("union", tuple(map(inner, unions)))
    listed = [part for part in split_top(text, _LIST) if part]
    if len(listed) > 1:
        return _list(listed, inner)
    if listed and listed[0] != text:
        return inner(listed[0])
    stripped = _strip_lead(text)
    if stripped != text:
        text = strip_units(stripped, bare_letters)
    if text.startswith("\\{") and text.endswith("\\}"):
        return _set(text, inner)
    signed = _expand_signs(text)
    if signed is not None:
        return Bag("list", tuple(map(inner, signed)))
    member = split_top(text, _IN)
    if len(member) == 2 and re.fullmatch(r"[A-Za-z]|\\[a-z]+|\([A-Za-z, ]+\)", member[0]):
        return inner(member[1])
    interval = _interval(text, inner)
    if interval is not None:
        return interval
    approximate = [side for side in split_top(text, _APPROX) if side]
    if len(approximate) > 1:  # x \\approx 3.1 says 3.1; 2\\sqrt2 \\approx 2.83 says 2\\sqrt2
        exact_first = re.search(r"\d|\\pi", approximate[0]) is not None
        return inner(approximate[0] if exact_first else approximate[-1])
    sides = split_top(text, _EQUALS)
    if len(sides) > 1:
        kept = [side for side in sides if side]
        return Equation(tuple(map(inner, kept)), text) if len(kept) > 1 else inner(kept[0] if kept else "?")
    return _bracketed(text, inner) or _single(text, inner)


def _list(parts: list[str], inner: Inner) -> Bag:
    """A list; an element that is a list itself (3 \\pm 1) gives its elements."""
    items: list[Value] = []
    for part in parts:
        item = inner(part)
        items.extend(item.items if isinstance(item, Bag) and item.kind == "list" else [item])
    if len(items) > MAX_ITEMS:
        raise TooBig("items")
    return Bag("list", tuple(items))


def _strip_lead(text: str) -> str:
    """Without prose that leads to the value: "the value of x is 5", "either 5"."""
    match = _LEAD.match(text)
    if match and not re.search(r"\b(?:not|n't|never)\b", match.group()):
        return text[match.end() :]
    return text


def _expand_signs(text: str) -> list[str] | None:
    """The values of an expression with \\pm: signs are independent, unless a \\mp ties them together."""
    signs = _SIGN.findall(text)
    if not signs:
        return None
    if len(signs) > MAX_SIGNS:
        raise TooBig("signs")
    choices = itertools.product("+-", repeat=len(signs))
    if "mp" in signs:
        flip = {"+": "-", "-": "+"}
        choices = [tuple(s if sign == "pm" else flip[s] for sign in signs) for s in "+-"]
    found = []
    for choice in choices:
        following = iter(choice)
        found.append(_SIGN.sub(lambda _, following=following: next(following), text))
    return found


def _interval(text: str, inner: Inner) -> Value | None:
    """a < x <= b, x > a and a > x as intervals; any other inequality is left to be compared as it stands."""
    relations = _RELATION.findall(text)
    sides = split_top(text, _RELATION)
    if not relations or len(sides) != len(relations) + 1 or not all(sides):
        return None
    upward = [relation in ("<", "\\le") for relation in relations]
    if len(set(upward)) > 1 or len(sides) > 3:
        return Leaf(text)
    if not upward[0]:
        sides, relations = sides[::-1], relations[::-1]
    closed = [relation in ("\\le", "\\ge") for relation in relations]
    name = r"[A-Za-z](?:_\w|_\{\w+\})?|\\(?:theta|alpha|beta|lambda)"
    if len(sides) == 3 and re.fullmatch(name, sides[1]):
        brackets = "(["[closed[0]] + ")]"[closed[1]]
        return Row(brackets, (inner(sides[0]), inner(sides[2])))
    if len(sides) == 2 and re.fullmatch(name, sides[0]):
        return Row("(" + ")]"[closed[0]], (Leaf("-\\infty"), inner(sides[1])))
    if len(sides) == 2 and re.fullmatch(name, sides[1]):
        return Row("(["[closed[0]] + ")", (inner(sides[0]), Leaf("\\infty")))
    return Leaf(text)


def _set(text: str, inner: Inner) -> Value:
    body = text[2:-2].strip()
    if "|" in body or ":" in body:
        return Leaf(text)
    return Bag("set", _list([part for part in split_top(body, _LIST) if part], inner).items)


def _bracketed(text: str, inner: Inner) -> Value | None:
    """A tuple, an interval, or one value in brackets; None if no brackets enclose the whole text."""
    if len(text) < 2 or text[0] not in "([]" or text[-1] not in ")][":
        return None
    body = text[1:-1]
    depths = list(itertools.accumulate((c in _OPEN) - (c in _CLOSE) for c in body))
    if (depths and (min(depths) < 0 or depths[-1] != 0)) and text[0] != "]":
        return None
    parts = split_top(body, re.compile("[,;]"))
    if len(parts) < 2:
        return inner(body) if text[0] in "([" and body.strip() else None
    brackets = ("(" if text[0] in "(]" else "[") + (")" if text[-1] in ")[" else "]")
    if not all(parts):
        return None
    return Row(brackets if len(parts) == 2 else "()", tuple(map(inner, parts)))


def _single(text: str, inner: Inner) -> Value:
    """One number, numeral, ratio, expression or phrase."""
    if text == "\\emptyset":
        return Bag("set", ())
    if text.startswith("{") and text.endswith("}") and text.count("{") == 1:
        return inner(text[1:-1].strip() or "?")
    based = _BASED.fullmatch(text)
    if based is not None:
        digits, base = based.group(1), based.group(2) or based.group(3)
        base = str(_BASE_NAMES.get(base, base))
        if base.isdigit() and any(c.isdigit() for c in digits):
            return Based(digits.lower().lstrip("0") or "0", base)
    parts = split_top(text, _COLON)
    if len(parts) > 1 and all(parts):
        return Row("ratio", tuple(map(inner, parts)))
    words = re.fullmatch(r"\\text\{([^{}]*)\}", text)
    if words or (_PROSE.fullmatch(text) and (len(text) > 3 or text.lower() in _SHORT_WORDS)):
        return Words(_plain_words(words.group(1) if words else text))
    if _SPACED_THOUSANDS.fullmatch(text):
        text = text.replace(" ", "")
    if re.search(r"\\%$", text):
        return Leaf(strip_units(text[:-2].strip(), True), percent=True)
    return Leaf(re.sub(r"(?<=\d) (\d+)\s*/\s*(\d+)$", r"\\frac{\1}{\2}", text))


def _plain_words(text: str) -> str:
    return re.sub(r"[^a-z0-9,+-]+", " ", text.lower()).strip()
