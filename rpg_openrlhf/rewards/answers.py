r"""Grammar of answers: tokens to the values of `values.py`.

The reader tries the forms from the outside in: unions, lists, prose before the value, sets, remarks, approximations,
inequalities, equations, tuples and intervals, matrices, and last one number, numeral, ratio, phrase or expression.
"""

import re
from collections.abc import Iterable
from itertools import product

from rpg_openrlhf.rewards.inequalities import interval_of, without_points
from rpg_openrlhf.rewards.lexer import tokens_of
from rpg_openrlhf.rewards.matrices import matrix_of
from rpg_openrlhf.rewards.numbers import NotExact, TooBig
from rpg_openrlhf.rewards.quantities import close, split_percent, split_remark, split_unit, with_multiples
from rpg_openrlhf.rewards.token_text import (
    MAX_ITEMS,
    balanced,
    expand_signs,
    is_name,
    numeral,
    split_top,
    text_of,
    trim,
    words,
)
from rpg_openrlhf.rewards.values import (
    INFINITY,
    MINUS_INFINITY,
    Bag,
    Equation,
    Leaf,
    Names,
    Row,
    Tokens,
    Value,
    Words,
)

MAX_DEPTH = 8

_LIST_MARKS = (",", r"\lor", *map("".join, product("oO", "rR")), *map("".join, product("aA", "nN", "dD")))
_VERBS = frozenset(("is", "are", "equals", "equal", "be"))
_DENIALS_TEXT = "not never no none wrong false incorrect unless neither nor except cannot"
_DENIALS = frozenset(_DENIALS_TEXT.split())
_ADVERBS = frozenset(("either", "both", "approximately", "about", "exactly", "only"))
_REALS = frozenset(("all real numbers", "all reals", "real numbers", "all real numbers x"))
_TIME = re.compile(r"(\d{1,2}:\d{2})([ap])\.?m\.?", re.IGNORECASE)
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?!\d|,\d)")

_FOR_ALL = re.compile(
    r",?\s*(?:\\text\s*\{\s*)?\bfor (?:all|every|any|each)\s+"
    r"(?:(?:real|positive|integers?|numbers?)\s*)*\}?[\s$]*[a-z]"
    r"(?:\s*\\in\s*\\(?:mathbb|mathbf)\s*\{?[A-Z]\}?)?[\s$}.]*$"
)
_INTEGERS = re.compile(  # the range of a letter: k\pi, k \in \mathbb{Z}
    r"(?<=[\w})])(?:[\s,;($~]|\\q?quad|\\[,;: ]|\\text\s*\{[\s,(]*(?:where|for|with)?\s*\}|where)++[kmn]\s*"
    r"(?:(?:\\in(?![a-z])|∈)\s*(?:\\mathbb\s*\{?\s*Z\s*\}?|ℤ)|\\text\s*\{\s*(?:is )?any? integer\s*\})[\s$.)]*$"
)
_NO_BRACES = str.maketrans("", "", "{}")
REAL_LINE = Row("()", (MINUS_INFINITY, INFINITY))


def readings(text: str, bare_letters: bool = False) -> list[Value]:
    """All values that the text can mean: 1,234 is a number or a list of two. Raises Unreadable, TooBig or NotExact.

    `bare_letters`: a single m or s after a number is a unit, not a variable.
    """
    values = []
    shorter = _FOR_ALL.sub("", text) if "=" in text else text
    shorter = _INTEGERS.sub("", shorter)
    text = shorter if shorter.count("{") == shorter.count("}") and shorter.count("(") == shorter.count(")") else text
    if not re.search(r"[(\[]|\\\{", text):
        merged = _THOUSANDS.sub(lambda match: match.group().replace(",", ""), text)
        if merged != text:
            values.append(_Reader(bare_letters).value(tokens_of(merged)))
    tokens = trim(tokens_of(text))
    return [*values, _Reader(bare_letters).value(tokens)] if tokens else values


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
        unions = split_top(tokens, r"\cup")
        if len(unions) > 1:
            return Bag("union", self.values(unions))
        listed = self.items(tokens)
        if len(listed) > 1:
            return self.list(listed)
        tokens = self.without_lead(listed[0])
        if not tokens:
            raise NotExact("nothing")
        readers = (self.set, self.remark, self.approximation, self.difference, self.member, self.relation)
        for reader in (*readers, self.equation, self.bracketed):
            value = reader(tokens)
            if value is not None:
                return value
        return matrix_of(tokens, self.value) or self.single(tokens)

    def items(self, tokens: Tokens) -> list[Tokens]:
        """The parts of a list: split at semicolons first, so that p=5,q=2; p=7,q=2 is a list of two pairs."""
        parts = [part for part in map(trim, split_top(tokens, ";")) if part]
        if len(parts) < 2:
            parts = [part for part in map(trim, split_top(tokens, *_LIST_MARKS)) if part]
        return parts or [tokens]

    def list(self, parts: list[Tokens]) -> Value:
        """A list. Nested lists (3 \\pm 1) are flattened, and x = 2, y = 3 become values by name."""
        values = self.values(parts)
        pairs = [pair for pair in map(self.named, values) if pair is not None]
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
        """The tokens without prose before the value: "the value of x is 5", "exactly 5"."""
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
        parts = split_top(body, "|", ":")
        if len(parts) == 2 and all(parts):
            variable = split_top(parts[0], r"\in")[0]
            return self.value(parts[1]) if is_name(variable) else Leaf(tokens)
        if len(parts) > 1:
            return Leaf(tokens)
        value = self.value(body)
        return Bag("set", value.items if isinstance(value, Bag) and value.kind == "list" else (value,))

    def remark(self, tokens: Tokens) -> Value | None:
        """An exact value with a rounded one: 737/39 (about 18.9 cards)."""
        parts = split_remark(tokens)
        if parts is None:
            return None
        value = self.value(parts[0])
        return value if close(value, parts[1]) else Leaf(tokens)

    def approximation(self, tokens: Tokens) -> Value | None:
        r"""Value of an approximation: 3.1 for x \approx 3.1; 2\sqrt2 for 2\sqrt2 \approx 2.83 if they are close."""
        sides = [side for side in split_top(tokens, r"\approx") if side]
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
        sides = split_top(tokens, r"\setminus")
        if len(sides) != 2:
            return REAL_LINE if text_of(tokens) in (r"\mathbb{R}", r"\mathbbR") else None
        left, right = self.values(sides)
        return without_points(left, right) or Leaf(tokens)

    def member(self, tokens: Tokens) -> Value | None:
        r"""x \in [2, 4] as [2, 4]."""
        sides = split_top(tokens, r"\in")
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
        sides = split_top(tokens, "=")
        if len(sides) < 2:
            return None
        kept = [side for side in sides if side]
        if sides[-1][:1] and sides[-1][0].text != "]" and not all(map(balanced, kept)):
            return Leaf(tokens)  # 41 x) or (y = 42: a stray bracket hides the separator
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
        parts = split_top(body, ",", ";")
        if len(parts) < 2 or first == "{":
            return self.value(body) if first != "]" else None
        if not all(parts):
            return None
        brackets = ("(" if first in "(]" else "[") + (")" if last in ")[" else "]")
        return Row(brackets if len(parts) == 2 else "()", self.values(parts))

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
        parts = split_top(tokens, ":", "to")
        if len(parts) > 1 and all(parts):
            return Row("ratio", self.values(parts))
        phrase = words(tokens)
        if phrase is not None:
            return REAL_LINE if phrase in _REALS else Words(phrase)
        number, percent = split_percent(with_multiples(tokens))
        number, unit = split_unit(number, self.bare_letters)
        return Leaf(number, percent, unit)
