r"""Values of answers, by which two answers are compared.

Leaf      one expression, with its number where `expressions.py` can read it
Row       items in order: a tuple, a point, an interval (its brackets are part of it), a ratio a:b, a matrix
Bag       items without order: a list of solutions, a set {..}, a union of intervals
Names     values by name: x = 2, y = 3, or (x, y) = (2, 3)
Equation  lhs = rhs; against a bare value its last side counts
Relation  an inequality that is not an interval: the difference of its sides is below zero
Words     an answer in words, or a numeral with a base (1011_2), equal only to the same numeral in the same base
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from rpg_openrlhf.rewards.expressions import evaluate
from rpg_openrlhf.rewards.lexer import Token
from rpg_openrlhf.rewards.numbers import NotExact, Number, TooBig

Tokens = tuple[Token, ...]


@dataclass(frozen=True)
class Leaf:
    tokens: Tokens
    percent: bool = False
    unit: str | None = None
    computed: Number | None = None  # instead of tokens: the bound of 2x < 6, an entry of a scaled matrix

    @cached_property
    def reading(self) -> Number | TooBig | None:
        """The number; TooBig if it exceeds the limits, None if the tokens are not an expression."""
        if self.computed is not None:
            return self.computed
        try:
            return evaluate(self.tokens)
        except TooBig as explosive:
            return explosive
        except NotExact:
            return None

    @property
    def number(self) -> Number | None:
        return self.reading if isinstance(self.reading, Number) else None

    @property
    def constant(self) -> Number | None:
        """The number if no letters occur in it."""
        return self.number if self.number is not None and self.number.is_constant else None


@dataclass(frozen=True)
class Words:
    text: str


@dataclass(frozen=True)
class Equation:
    sides: tuple["Value", ...]
    tokens: Tokens

    @property
    def last(self) -> "Value":
        return self.sides[-1]


@dataclass(frozen=True)
class Names:
    items: tuple[tuple[str, "Value"], ...]

    def row(self, alphabetical: bool) -> "Row":
        """The values as a tuple, sorted by name or in written order."""
        items = sorted(self.items, key=lambda item: item[0]) if alphabetical else self.items
        return Row("()", tuple(value for _, value in items))

    @property
    def are_indexed(self) -> bool:
        """True for x_1, x_2: solutions of one unknown, in no order."""
        letters = {name.partition("_")[0] for name, _ in self.items}
        return len(letters) == 1 and all("_" in name for name, _ in self.items)


@dataclass(frozen=True)
class Relation:
    difference: Number
    strict: bool


@dataclass(frozen=True)
class Row:
    brackets: str
    items: tuple["Value", ...]
    variable: str | None = None  # the letter of an interval that was written as an inequality


@dataclass(frozen=True)
class Bag:
    kind: str  # "list", "set" or "union"
    items: tuple["Value", ...]


Value = Leaf | Words | Equation | Names | Relation | Row | Bag


INFINITY = Leaf((Token("command", r"\infty"),))
MINUS_INFINITY = Leaf((Token("mark", "-"), Token("command", r"\infty")))


def leaves(value: Value) -> Iterator[Leaf]:
    """Every expression in a value."""
    if isinstance(value, Leaf):
        yield value
    parts = {Equation: "sides", Row: "items", Bag: "items"}.get(type(value))
    items = getattr(value, parts) if parts else [item for _, item in value.items] if isinstance(value, Names) else ()
    for item in items:
        yield from leaves(item)
