r"""The closed grammar of answers: tokens to the values of `values.py`.

From the outside in: unions, lists, prose that leads to the value, sets, inequalities, approximations, equations,
tuples and intervals, matrices, and then one number, numeral, ratio, phrase or expression.
"""

import itertools
import re
from collections.abc import Callable, Iterable, Sequence
from operator import itemgetter

from rpg_openrlhf.rewards.inequalities import interval_of
from rpg_openrlhf.rewards.lexer import Token, tokens_of
from rpg_openrlhf.rewards.matrices import matrix_of
from rpg_openrlhf.rewards.numbers import NotExact, TooBig
from rpg_openrlhf.rewards.quantities import close, split_percent, split_remark, split_unit, with_multiples
from rpg_openrlhf.rewards.values import (
    INFINITY,
    MINUS_INFINITY,
    Bag,
    Based,
    Equation,
    Leaf,
    Names,
    Row,
    Tokens,
    Value,
    Words,
)

MAX_ITEMS = 200
MAX_SIGNS = 4  # \pm signs in one answer, each doubles it
MAX_DEPTH = 8

_OPEN = frozenset(("(", "[", "{", r"\{", r"\lfloor", r"\lceil"))
_CLOSE = frozenset((")", "]", "}", r"\}", r"\rfloor", r"\rceil"))
_LIST_WORDS = frozenset(("or", "and"))
_VERBS = frozenset(("is", "are", "equals", "equal", "be"))
_DENIALS_TEXT = """
    not never no none wrong false incorrect unless neither nor except cannot
"""
_DENIALS = frozenset(_DENIALS_TEXT.split())
_ADVERBS = frozenset(("either", "approximately", "about", "exactly", "only"))
_SEPARATORS = frozenset((",", ";"))
_TRAILING = frozenset((".", ",", ";", ":", "?"))
_LEADING = frozenset(("=", ":", r"\approx", r"\sim"))
_NUMERALS_TEXT = """
    two three four five six seven eight nine ten eleven twelve sixteen
"""
_NUMERALS: dict[str, int] = dict(
    zip(
        _NUMERALS_TEXT.split(),
        [*range(2, 13), 16],
        strict=True,
    )
)
_REALS = frozenset(("all real numbers", "all reals", "real numbers", "all real numbers x"))
_NAME = re.compile(r"(?:[A-Za-z]'*|\\(?!angle)[a-z]+)(?:_(?:\w+|\{[^{}]*\}))?|m?\\angle(?:\{?[A-Z]{1,3}\}?)")
_TIME = re.compile(r"(\d{1,2}:\d{2})([ap])\.?m\.?", re.IGNORECASE)
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?!\d|,\d)")

_NO_BRACES = str.maketrans("", "", "{}")
REAL_LINE = Row("()", (MINUS_INFINITY, INFINITY))


def text_of(tokens: Iterable[Token]) -> str:
    return "".join(token.text for token in tokens)


def is_name(tokens: Sequence[Token]) -> bool:
    """True for a letter with primes or a subscript: what a value is given to."""
    return bool(tokens) and _NAME.fullmatch(text_of(tokens)) is not None and tokens[0].kind in ("letter", "command")


def split_top(tokens: Tokens, is_separator: Callable[[Token], bool]) -> list[Tokens]:
    """Split at separators outside all brackets; half-open intervals count as brackets too."""
    depth, parts, start = 0, [], 0
    for index, token in enumerate(tokens):
        if depth == 0 and is_separator(token):
            parts.append(tokens[start:index])
            start = index + 1
        depth += (token.text in _OPEN or token.kind == "begin") - (token.text in _CLOSE or token.kind == "end")
    parts.append(tokens[start:])
    if len(parts) > MAX_ITEMS:
        raise TooBig("items")
    return parts


def readings(text: str, bare_letters: bool = False) -> list[Value]:
    """Every value the text may stand for: 1,234 is a number or a list of two.

    `bare_letters`: a lone m or s after a number is a unit, not a variable. Unreadable, TooBig and NotExact are raised.
    """
    values = []
    if not re.search(r"[(\[]|\\\{", text):
        merged = _THOUSANDS.sub(lambda match: match.group().replace(",", ""), text)
        if merged != text:
            values.append(_Reader(bare_letters).value(tokens_of(merged)))
    tokens = trim(tokens_of(text))
    return [*values, _Reader(bare_letters).value(tokens)] if tokens else values


def trim(tokens: Tokens) -> Tokens:
    """The tokens without the punctuation of a sentence around them."""
    start, end = 0, len(tokens)
    while end > start and tokens[end - 1].text in _TRAILING:
        end -= 1
    while start < end and tokens[start].text in _LEADING:
        start += 1
    return tokens[start:end]


class _Reader:
    def __init__(self, bare_letters: bool):
        self.bare_letters = bare_letters
        self.depth = 0

    def value(self, tokens: Tokens) -> Value:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise TooBig("depth")
        value = self.read(trim(tokens))
        self.depth -= 1
        return value

    def values(self, parts: Iterable[Tokens]) -> tuple[Value, ...]:
        return tuple(map(self.value, parts))

    def read(self, tokens: Tokens) -> Value:
        if not tokens:
            raise NotExact("nothing")
        unions = split_top(tokens, lambda token: token.text == r"\cup")
        if len(unions) > 1:
            return Bag("union", self.values(unions))
        listed = self.items(tokens)
        if len(listed) > 1:
            return self.list(listed)
        tokens = self.without_lead(listed[0])
        readers = (self.set, self.remark, self.approximation, self.difference, self.member, self.relation)
        for reader in (*readers, self.equation, self.bracketed, self.matrix):
            value = reader(tokens)
            if value is not None:
                return value
        return self.single(tokens)

    def items(self, tokens: Tokens) -> list[Tokens]:
        """The parts of a list: split at semicolons first, so that p=5,q=2; p=7,q=2 is a list of two pairs."""
        groups = [part for part in map(trim, split_top(tokens, lambda token: token.text == ";")) if part]
        if len(groups) > 1:
            return groups
        parts = split_top(
            tokens, lambda t: t.text in (",", r"\lor") or (t.kind == "word" and t.text.lower() in _LIST_WORDS)
        )
        return [part for part in map(trim, parts) if part] or [tokens]

    def list(self, parts: list[Tokens]) -> Value:
        """A list; an element that is a list itself (3 \\pm 1) gives its elements, x = 2, y = 3 are values by name."""
        values = self.values(parts)
        named = [self.named(value) for value in values]
        pairs = [pair for pair in named if pair is not None]
        if len(pairs) == len(values) and len(dict(pairs)) == len(pairs):
            return Names(tuple(pairs))
        items: list[Value] = []
        for value in values:
            items.extend(value.items if isinstance(value, Bag) and value.kind == "list" else [value])
        if len(items) > MAX_ITEMS:
            raise TooBig("items")
        return Bag("list", tuple(items))

    def named(self, value: Value) -> tuple[str, Value] | None:
        if isinstance(value, Equation) and isinstance(value.sides[0], Leaf) and is_name(value.sides[0].tokens):
            return text_of(value.sides[0].tokens).translate(_NO_BRACES), value.last
        return None

    def without_lead(self, tokens: Tokens) -> Tokens:
        """The tokens without prose that leads to the value: "the value of x is 5", "exactly 5"."""
        for index, token in reversed(list(enumerate(tokens[:-1]))):
            if token.kind == "word" and token.text.lower() in _VERBS:
                lead = tokens[:index]
                if all(t.kind != "number" and t.text != "=" and t.text.lower() not in _DENIALS for t in lead):
                    return self.without_lead(trim(tokens[index + 1 :]))
        if len(tokens) > 1 and tokens[0].kind == "word" and tokens[0].text.lower() in _ADVERBS:
            return self.without_lead(trim(tokens[1:]))
        return tokens

    def set(self, tokens: Tokens) -> Value | None:
        if tokens[0].text != r"\{" or tokens[-1].text != r"\}" or not balanced(tokens[1:-1]):
            return None
        body = tokens[1:-1]
        if not body:
            return Bag("set", ())
        parts = split_top(body, lambda token: token.text in ("|", ":"))
        if len(parts) == 2 and all(parts):
            variable = split_top(parts[0], lambda token: token.text == r"\in")[0]
            return self.value(parts[1]) if is_name(variable) else Leaf(tokens)
        if len(parts) > 1:
            return Leaf(tokens)
        value = self.value(body)
        return Bag("set", value.items if isinstance(value, Bag) and value.kind == "list" else (value,))

    def remark(self, tokens: Tokens) -> Value | None:
        """An exact value and its size: 737/39 (about 18.9 cards)."""
        parts = split_remark(tokens)
        if parts is None:
            return None
        value = self.value(parts[0])
        return value if close(value, parts[1]) else Leaf(tokens)

    def approximation(self, tokens: Tokens) -> Value | None:
        r"""x \approx 3.1 says 3.1; 2\sqrt2 \approx 2.83 says 2\sqrt2, if 2.83 is about that."""
        sides = [side for side in split_top(tokens, lambda token: token.text == r"\approx") if side]
        if len(sides) < 2:
            return None
        if not any(token.kind == "number" or token.text == r"\pi" for token in sides[0]):
            exact, *sides = sides[::-1][:-1]
        else:
            exact, *sides = sides
        value = self.value(exact)
        return value if all(close(value, side) for side in sides) else Leaf(tokens)

    def difference(self, tokens: Tokens) -> Value | None:
        r"""\mathbb{R} \setminus \{3\} as a union of intervals."""
        sides = split_top(tokens, lambda token: token.text == r"\setminus")
        if len(sides) != 2:
            return REAL_LINE if text_of(tokens) in (r"\mathbb{R}", r"\mathbbR") else None
        left, right = self.values(sides)
        return without_points(left, right) or Leaf(tokens)

    def member(self, tokens: Tokens) -> Value | None:
        r"""x \in [2, 4] as [2, 4]."""
        sides = split_top(tokens, lambda token: token.text == r"\in")
        if len(sides) != 2 or not sides[1]:
            return None
        names = re.fullmatch(r"[A-Za-z]|\\[a-z]+|\([A-Za-z, ]+\)", text_of(sides[0]))
        return self.value(sides[1]) if names else Leaf(tokens)

    def relation(self, tokens: Tokens) -> Value | None:
        value = interval_of(tokens, self.value)
        if isinstance(value, Bag):  # x \ne 3
            return without_points(REAL_LINE, value) or Leaf(tokens)
        return value

    def equation(self, tokens: Tokens) -> Value | None:
        sides = split_top(tokens, lambda token: token.text == "=")
        if len(sides) < 2:
            return None
        kept = [side for side in sides if side]
        if len(kept) < 2:
            return self.value(kept[0])
        values = self.values(kept)
        return self.named_tuple(values) or Equation(values, tokens)

    def named_tuple(self, sides: tuple[Value, ...]) -> Names | None:
        """(x, y) = (2, 4) as values by name."""
        left, right = sides[0], sides[-1]
        if len(sides) != 2 or not (isinstance(left, Row) and isinstance(right, Row) and left.brackets == "()"):
            return None
        names = [text_of(item.tokens) for item in left.items if isinstance(item, Leaf) and is_name(item.tokens)]
        if not len(set(names)) == len(left.items) == len(right.items):
            return None
        return Names(tuple((name.translate(_NO_BRACES), item) for name, item in zip(names, right.items, strict=True)))

    def bracketed(self, tokens: Tokens) -> Value | None:
        """A tuple, an interval, or one value in brackets; None if no brackets enclose all tokens."""
        first, last = tokens[0].text, tokens[-1].text
        if len(tokens) < 3 or first not in ("(", "[", "]", "{") or last not in (")", "]", "[", "}"):
            return None
        body = tokens[1:-1]
        if (first == "{") != (last == "}") or not balanced(body):
            return None
        parts = split_top(body, lambda token: token.text in _SEPARATORS)
        if len(parts) < 2 or first == "{":
            return self.value(body) if first != "]" else None
        if not all(parts):
            return None
        brackets = ("(" if first in "(]" else "[") + (")" if last in ")[" else "]")
        return Row(brackets if len(parts) == 2 else "()", self.values(parts))

    def matrix(self, tokens: Tokens) -> Value | None:
        return matrix_of(tokens, self.value)

    def single(self, tokens: Tokens) -> Value:
        """One number, numeral, ratio, expression or phrase."""
        if text_of(tokens) == r"\emptyset":
            return Bag("set", ())
        if tokens[0].text == "+" and len(tokens) > 1:
            tokens = tokens[1:]
        signed = expand_signs(tokens)
        if signed is not None:
            return Bag("list", self.values(signed))
        based = numeral(tokens)
        if based is not None:
            return based
        time = _TIME.fullmatch(text_of(tokens))
        if time is not None:
            return Words(f"{time.group(1)} {time.group(2)}m".lower())
        parts = split_top(tokens, lambda token: token.text == ":")
        if len(parts) > 1 and all(parts):
            return Row("ratio", self.values(parts))
        phrase = words(tokens)
        if phrase is not None:
            return REAL_LINE if phrase in _REALS else Words(phrase)
        number, percent = split_percent(with_multiples(tokens))
        number, unit = split_unit(number, self.bare_letters)
        return Leaf(number, percent, unit)


def balanced(tokens: Tokens) -> bool:
    """True if all brackets are closed in the tokens; half-open intervals count as closed."""
    depth = 0
    for token in tokens:
        depth += (token.text in _OPEN) - (token.text in _CLOSE)
        if depth < 0:
            return False
    return depth == 0


def words(tokens: Tokens) -> str | None:
    """A phrase in lower case; None where anything but words stands in it, or single letters alone."""
    if not any(token.kind == "word" and len(token.text) > 1 for token in tokens):
        return None
    if any(token.kind not in ("word", "letter") and token.text not in ("'", ".", "-") for token in tokens):
        return None
    return "".join(" " * token.spaced + token.text for token in tokens).strip().lower()


def expand_signs(tokens: Tokens) -> list[Tokens] | None:
    r"""The values of an expression with \pm: signs are independent, unless a \mp ties them together."""
    signs = [token.text for token in tokens if token.text in (r"\pm", r"\mp")]
    if not signs:
        return None
    if len(signs) > MAX_SIGNS:
        raise TooBig("signs")
    choices: Iterable[Sequence[str]] = itertools.product("+-", repeat=len(signs))
    if r"\mp" in signs:
        flipped = {"+": "-", "-": "+"}
        choices = [tuple(s if sign == r"\pm" else flipped[s] for sign in signs) for s in "+-"]
    expanded = []
    for choice in choices:
        chosen = iter(choice)
        expanded.append(tuple(Token("mark", next(chosen)) if t.text in (r"\pm", r"\mp") else t for t in tokens))
    return expanded


def numeral(tokens: Tokens) -> Based | None:
    """1011_2, 4210_{5}, 32_{(8)}, 1011_{\\text{two}}."""
    mark = next((index for index, token in enumerate(tokens) if token.text == "_"), 0)
    sign = "-" if tokens[0].text == "-" else ""
    digits = text_of(tokens[:mark]).removeprefix(sign)
    digits = digits[1:-1] if digits[:1] == "(" and digits[-1:] == ")" else digits
    if not mark or not re.fullmatch(r"[0-9A-Za-z.]+", digits) or not re.search(r"\d", digits):
        return None
    subscript = text_of(token for token in tokens[mark + 1 :] if token.text not in ("{", "}", "(", ")")).rstrip(".")
    base = _NUMERALS.get(subscript, int(subscript) if re.fullmatch(r"\d{1,2}", subscript) else 0)
    values = [int(digit, 36) for digit in digits if digit != "."]
    if not 2 <= base <= 36 or max(values) >= base or any(token.spaced for token in tokens[1 + len(sign) : mark]):
        return None
    return Based(sign + (digits.lower().lstrip("0") or "0"), base)


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
