r"""What an answer may be: the values that two answers are compared by.

Bag     order does not matter: a list of solutions, a set {..}, a union of intervals
Row     order matters: a tuple, a point, an interval (its brackets are part of it), a ratio a:b, a matrix
Leaf    one expression, with its exact value where the grammar of `expressions.py` reaches it
Based   a numeral with a base, 1011_2: equal only to the same numeral in the same base
Words   an answer in words, or the letter of a choice
Equation  lhs = rhs; against a bare value its last side counts
"""

from dataclasses import dataclass
from functools import cached_property

from rpg_openrlhf.rewards.exact import INFINITY, Exact, NotExact, TooBig, symbol
from rpg_openrlhf.rewards.expressions import exact_value


@dataclass(frozen=True)
class Leaf:
    text: str
    percent: bool = False

    @cached_property
    def reading(self) -> Exact | TooBig | None:
        """The exact value; TooBig where it is explosive, None where it is outside the grammar."""
        signed = self.text.replace(" ", "")
        if signed.lstrip("+-") == "\\infty" and len(signed) <= 7:
            infinity = symbol(INFINITY)
            return -infinity if signed[0] == "-" else infinity
        try:
            return exact_value(self.text)
        except TooBig as explosive:
            return explosive
        except NotExact:
            return None

    @property
    def value(self) -> Exact | None:
        return self.reading if isinstance(self.reading, Exact) else None


@dataclass(frozen=True)
class Based:
    digits: str
    base: str


@dataclass(frozen=True)
class Words:
    text: str


@dataclass(frozen=True)
class Equation:
    sides: tuple["Value", ...]
    text: str

    @property
    def value(self) -> "Value":
        return self.sides[-1]


@dataclass(frozen=True)
class Row:
    brackets: str
    items: tuple["Value", ...]


@dataclass(frozen=True)
class Bag:
    kind: str  # "list", "set" or "union"
    items: tuple["Value", ...]


Value = Leaf | Based | Words | Equation | Row | Bag
