"""Comparison of a response's answer with the gold answer. An undecided comparison counts as wrong."""

import re
from dataclasses import replace

from rpg_openrlhf.rewards.numbers import NotExact, Number, TooBig, rational
from rpg_openrlhf.rewards.quantities import conflict
from rpg_openrlhf.rewards.token_text import text_of
from rpg_openrlhf.rewards.values import Bag, Equation, Leaf, Names, Relation, Row, Tokens, Value, Words

MAX_COMPARISONS = 2_000  # comparisons of values per answer


class Ambiguous(Exception):
    """The answer holds more than one candidate where the gold answer is one value."""


_GREEK = r"\\(?:alpha|beta|gamma|delta|epsilon|theta|lambda|mu|nu|phi|psi|omega|sigma|tau|rho|ell)"
_SUBSCRIPT = r"(?:_(?:\w|\{[^{}]*\}))?"
_ATOM = rf"(?:[A-Za-z]'*{_SUBSCRIPT}|{_GREEK}{_SUBSCRIPT}|\\(?:vec|overline|bar|hat)\{{[^{{}}]*\}})"
# Names of quantities: a letter, f(x), AB, |AB|, an angle, a ratio of segments, a derivative
_QUANTITY = re.compile(
    rf"{_ATOM}(?:\([^()=]*\))?|\|?[A-Z]{{2,3}}\|?|(?:\\angle|\\triangle|m\\angle)[A-Z]{{1,3}}"
    rf"|\\frac\{{(?:d?{_ATOM}|[A-Z]{{2}}|d)\}}\{{(?:d?{_ATOM}|[A-Z]{{2}})\}}|{_ATOM}/{_ATOM}|[A-Z]{{2}}/[A-Z]{{2}}"
)
_APPLICATION = re.compile(r"([A-Za-z])\(([a-z])\)")


def is_quantity(value: Value) -> bool:
    """True if the left side of an equation only names the quantity asked for."""
    if isinstance(value, Row) and value.brackets in ("()", "ratio"):
        return all(map(is_quantity, value.items))
    return isinstance(value, Leaf) and _QUANTITY.fullmatch(text_of(value.tokens)) is not None


class Comparison:
    """Comparison of one answer with one gold answer, in a bounded number of steps."""

    def __init__(self) -> None:
        self.count = 0

    def same(self, gold: Value, answer: Value) -> bool:
        """True if both are the same value. Raises Ambiguous, TooBig or NotExact."""
        self.count += 1
        if self.count > MAX_COMPARISONS:
            raise TooBig("comparisons")
        if isinstance(gold, Equation) and isinstance(answer, Equation):
            return self.same_equation(gold, answer)
        if isinstance(gold, Names) or isinstance(answer, Names):
            return self.same_names(gold, answer)
        if isinstance(answer, Equation):
            answer = self.last_side(answer, isinstance(gold, Leaf) and gold.percent)
        if isinstance(gold, Equation):
            return self.same_side(gold, answer)
        gold, answer = _single(gold), _single(answer)
        if isinstance(gold, Bag):
            return self.same_bag(gold, answer)
        if isinstance(answer, Bag):
            return self.one_of_many(gold, answer)
        if isinstance(gold, Row) and isinstance(answer, Row):
            return self.same_row(gold, answer)
        if isinstance(gold, Words) or isinstance(answer, Words):
            return _phrase(gold) == _phrase(answer) is not None
        if isinstance(gold, Relation) and isinstance(answer, Relation):
            ratio = gold.difference.ratio(answer.difference)
            return gold.strict == answer.strict and ratio is not None and ratio > 0
        return isinstance(gold, Leaf) and isinstance(answer, Leaf) and self.same_leaf(gold, answer)

    def last_side(self, answer: Equation, percent: bool = False) -> Value:
        """The last side of a = b = c; Ambiguous if its sides are different numbers. 1/2 = 50 % is one number."""
        last, first = answer.last, answer.sides[0]
        is_number = isinstance(first, Leaf) and first.constant is not None
        if isinstance(last, Leaf) and text_of(last.tokens) == "0" and not (is_number or is_quantity(first)):
            return Leaf(answer.tokens)  # an equation to be solved, not an answer of zero
        sides = answer.sides[:-1]
        if isinstance(last, Bag):  # {1, 1 + 1} = {1, 2}, S = {1, 2}
            sides = tuple(side for side in sides if isinstance(side, Bag))
            if not all(self.same_or_false(last, side) for side in sides):
                raise Ambiguous
        constant = last.constant if isinstance(last, Leaf) else None
        if constant is not None:
            if any(isinstance(side, Leaf) and _is_broken_number(side) for side in sides):
                raise Ambiguous
            constants = [side for side in (last, *sides) if isinstance(side, Leaf) and side.constant is not None]
            if not all(_amount(side).equals(_amount(constants[0])) for side in constants[1:]):
                raise Ambiguous
            return next((side for side in constants if side.percent == percent), last)
        if isinstance(last, Words) and not all(is_quantity(side) for side in sides):
            raise Ambiguous
        return last

    def same_side(self, gold: Equation, answer: Value) -> bool:
        """True if a bare value equals the last side of x = 5 or AB/CD = 2, or either side of 0.56 = 56 %."""
        if all(isinstance(side, Leaf) and side.constant is not None for side in gold.sides):
            return any(self.same_or_false(side, answer) for side in gold.sides)
        if all(isinstance(side, Bag | Row) for side in gold.sides):
            return self.same(gold.last, answer)
        return is_quantity(gold.sides[0]) and self.same(gold.last, answer)

    def same_equation(self, gold: Equation, answer: Equation) -> bool:
        if gold.tokens == answer.tokens:
            return True
        left, right = gold.sides[0], answer.sides[0]
        if isinstance(left, Leaf) and isinstance(right, Leaf):
            if is_quantity(left) and left.tokens == right.tokens:
                return self.same(gold.last, self.last_side(answer))
            call, other = (_APPLICATION.fullmatch(text_of(side.tokens)) for side in (left, right))
            if call and other and call.group(1) == other.group(1) and isinstance(answer.last, Leaf):
                return self.same(gold.last, _renamed(answer.last, other.group(2), call.group(2)))
        if len(gold.sides) != len(answer.sides):
            return False
        if self.same_zero(gold, answer):
            return True
        return all(self.same_or_false(g, a) for g, a in zip(gold.sides, answer.sides, strict=True))

    def same_zero(self, gold: Equation, answer: Equation) -> bool:
        """True if both equations contain letters and their differences of sides are proportional."""
        differences = []
        for equation in (gold, answer):
            sides = [side.number for side in equation.sides if isinstance(side, Leaf)]
            if len(equation.sides) != 2 or len(sides) != 2 or sides[0] is None or sides[1] is None:
                return False
            differences.append(sides[0] - sides[1])
        if not differences[0].letters or not differences[1].letters:
            return False
        return differences[0].ratio(differences[1]) is not None

    def same_names(self, gold: Value, answer: Value) -> bool:
        """Compare by name. If one side has no names, a gold answer's order is as written, a response's by name."""
        if isinstance(gold, Names) and isinstance(answer, Names):
            golds, answers = dict(gold.items), dict(answer.items)
            return golds.keys() == answers.keys() and all(self.same(golds[name], answers[name]) for name in golds)
        named, other = (gold, answer) if isinstance(gold, Names) else (answer, gold)
        assert isinstance(named, Names)
        other = other.last if isinstance(other, Equation) else other
        row = named.row(alphabetical=named is answer)
        if isinstance(other, Bag) and other.kind != "union":
            if any(isinstance(item, Equation) for item in other.items):
                return False  # a = 2 or a = 3 are values of one name
            if not named.are_indexed:
                other = Row("()", other.items)
            else:
                row = Bag("list", row.items)
        if not isinstance(other, Row | Bag):
            raise Ambiguous
        return self.same(row, other) if named is gold else self.same(other, row)

    def same_bag(self, gold: Bag, answer: Value) -> bool:
        """True for the same elements, each as often (sets: at least once), in any order."""
        if isinstance(answer, Row) and gold.kind == "list" and answer.brackets == "()":
            if any(isinstance(item, Row) for item in gold.items):
                return False
            answer = Bag("list", answer.items)
        if not isinstance(answer, Bag):
            return False
        wanted, offered = list(gold.items), list(answer.items)
        if "set" in (gold.kind, answer.kind) and len(wanted) != len(offered):
            wanted, offered = self.distinct(wanted), self.distinct(offered)
        if len(wanted) != len(offered):
            return False
        for item in wanted:
            match = next((i for i, other in enumerate(offered) if self.same_or_false(item, other)), None)
            if match is None:
                return False
            offered.pop(match)
        return True

    def same_or_false(self, gold: Value, answer: Value) -> bool:
        try:
            return self.same(gold, answer)
        except (Ambiguous, NotExact):
            return False

    def distinct(self, items: list[Value]) -> list[Value]:
        kept: list[Value] = []
        for item in items:
            if not any(self.same_or_false(other, item) for other in kept):
                kept.append(item)
        return kept

    def one_of_many(self, gold: Value, answer: Bag) -> bool:
        """Compare a list with one gold value: only a tuple without brackets, or one value repeated, can be right."""
        if isinstance(gold, Row) and gold.brackets == "()" and len(gold.items) == len(answer.items):
            if answer.kind != "list" or any(isinstance(item, Row) for item in answer.items):
                raise Ambiguous
            return all(self.same(g, a) for g, a in zip(gold.items, answer.items, strict=True))
        if answer.items and all(self.same_or_false(gold, item) for item in answer.items):
            return True
        raise Ambiguous

    def same_row(self, gold: Row, answer: Row) -> bool:
        if gold.brackets != answer.brackets or len(gold.items) != len(answer.items):
            return False
        if gold.variable and answer.variable and gold.variable != answer.variable:
            return False
        return all(self.same(g, a) for g, a in zip(gold.items, answer.items, strict=True))

    def same_leaf(self, gold: Leaf, answer: Leaf) -> bool:
        if gold.percent != answer.percent or (gold.unit and answer.unit and conflict(gold.unit, answer.unit)):
            return False
        if gold.tokens and gold.tokens == answer.tokens:
            return True
        number, reading = gold.reading, answer.reading
        if isinstance(reading, TooBig):
            raise reading
        if isinstance(number, Number) and reading is None and number.is_constant and _several_numbers(answer.tokens):
            raise Ambiguous
        return isinstance(number, Number) and isinstance(reading, Number) and number.equals(reading)


def _single(value: Value) -> Value:
    return value.items[0] if isinstance(value, Bag) and len(value.items) == 1 else value


def _phrase(value: Value) -> str | None:
    """Phrase to compare, in lower case: of words, or of letters with their spaces; None for other values."""
    if isinstance(value, Words):
        return re.sub(r"[^a-z0-9]+", " ", re.sub(r"^(?:an?|the) ", "", value.text)).strip()
    if isinstance(value, Leaf) and value.tokens and all(token.kind == "letter" for token in value.tokens):
        return "".join(" " * token.spaced + token.text for token in value.tokens).strip().lower()
    return None


def _renamed(leaf: Leaf, old: str, new: str) -> Leaf:
    tokens = (replace(t, text=new) if t.kind == "letter" and t.text == old else t for t in leaf.tokens)
    return replace(leaf, tokens=tuple(tokens))


def _amount(leaf: Leaf) -> Number:
    assert leaf.constant is not None
    return leaf.constant / rational(100) if leaf.percent else leaf.constant


def _is_broken_number(leaf: Leaf) -> bool:
    """True for signs and digits that do not form a number."""
    return leaf.reading is None and not any(token.kind in ("letter", "word") for token in leaf.tokens)


def _several_numbers(tokens: Tokens) -> bool:
    """True for several numbers without a command: 42 41, 42 rather than 41."""
    kinds = [token.kind for token in tokens]
    return kinds.count("number") > 1 and "command" not in kinds
