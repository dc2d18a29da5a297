r"""LaTeX or plain text of one expression to an `Exact` value, by recursive descent; nothing is ever evaluated as code.

sum      = ["+" | "-"] product { ("+" | "-") product }
product  = power { ["*" | "/" | "\cdot" | ...] power }        juxtaposition multiplies
power    = operand { "!" | "^" exponent }
operand  = number | letter | "(" sum ")" | "|" sum "|" | \frac | \sqrt | \binom | function argument
"""

import re
from math import comb

from rpg_openrlhf.rewards import exact
from rpg_openrlhf.rewards.exact import Exact, NotExact, TooBig
from rpg_openrlhf.rewards.literals import decimal_fraction, expand_repeating

MAX_DEPTH = 24  # nested groups; a final answer has a few
MAX_TOKENS = 800
MAX_WORK = 8_000  # products of terms in one expression

_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+(?![\d.^]))?)"
    r"|(?P<command>\\[A-Za-z]+)|(?P<letter>[A-Za-z]'*)|(?P<mark>[-+*/^_!()\[\]{}|])|(?P<bad>\S))",
    re.ASCII,
)
_FUNCTION_NAMES = """
    sin cos tan cot sec csc arcsin arccos arctan arccot sinh cosh tanh log ln exp lg arg Re Im gcd lcm max min
"""
_FUNCTIONS = frozenset(_FUNCTION_NAMES.split())
_GREEK_NAMES = """
    alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho sigma tau
    upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Sigma Phi Psi Omega hbar ell pi
"""
_GREEK = frozenset(_GREEK_NAMES.split())
_TIMES = frozenset(("*", "\\cdot", "\\times", "\\ast"))
_OVER = frozenset(("/", "\\div"))
_CLOSING = {"(": ")", "[": "]", "{": "}", "\\lbrack": "\\rbrack", "\\lfloor": "\\rfloor", "\\lceil": "\\rceil"}
_STOP = frozenset(("+", "-", ")", "]", "}", "|", "!", "^", *_CLOSING.values(), *_TIMES, *_OVER))
_APPLIED = frozenset("fgh")  # f(x + 1) is an application, x(x + 1) a product


class _Parser:
    def __init__(self, text: str):
        self.tokens: list[tuple[str, str]] = []  # (kind, text)
        for match in _TOKEN.finditer(expand_repeating(text)):
            kind = match.lastgroup or "bad"
            if kind == "bad":
                raise NotExact(f"character {match.group(kind)!r}")
            self.tokens.append((kind, match.group(kind)))
        if len(self.tokens) > MAX_TOKENS:
            raise TooBig("length")
        self.position, self.depth, self.work = 0, 0, 0

    def peek(self) -> str:
        return self.tokens[self.position][1] if self.position < len(self.tokens) else ""

    def kind(self) -> str:
        return self.tokens[self.position][0] if self.position < len(self.tokens) else "end"

    def take(self) -> str:
        if self.position >= len(self.tokens):
            raise NotExact("the end came too early")
        self.position += 1
        return self.tokens[self.position - 1][1]

    def expect(self, token: str) -> None:
        if self.take() != token:
            raise NotExact(f"expected {token}")

    def spend(self, work: int) -> None:
        self.work += work
        if self.work > MAX_WORK:
            raise TooBig("work")

    def whole(self) -> Exact:
        value = self.sum()
        if self.kind() != "end":
            raise NotExact(f"left over: {self.peek()}")
        return value

    def descend(self) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise TooBig("depth")

    def sum(self) -> Exact:
        value = self.signed_product()
        while self.peek() in ("+", "-"):
            value = self.combine(value, self.signed_product(), "+")
        return value

    def signed_product(self) -> Exact:
        negative = False
        while self.peek() in ("+", "-"):
            negative ^= self.take() == "-"
        value = self.product()
        return -value if negative else value

    def combine(self, left: Exact, right: Exact, operator: str) -> Exact:
        self.spend(len(left.numerator) * len(right.numerator) + len(left.denominator) * len(right.denominator))
        if operator == "+":
            if left.denominator != right.denominator:
                self.spend(len(left.numerator) * len(right.denominator) + len(right.numerator) * len(left.denominator))
            return left + right
        return left / right if operator == "/" else left * right

    def product(self) -> Exact:
        value = self.power()
        while self.kind() != "end":
            token = self.peek()
            if token in _TIMES or token in _OVER:
                self.take()
                sign = -1 if self.peek() == "-" else 1
                if self.peek() in ("+", "-"):
                    self.take()
                right = self.power()
                value = self.combine(value, right if sign > 0 else -right, "/" if token in _OVER else "*")
            elif token in _STOP:
                break
            elif self.kind() == "number":
                raise NotExact("two numbers side by side")
            else:
                value = self.combine(value, self.power(), "*")
        return value

    def power(self) -> Exact:
        value = self.operand()
        while self.peek() in ("!", "^"):
            if self.take() == "!":
                value = exact.factorial_of(value)
                continue
            exponent = self.exponent()
            n = exponent.fraction
            if n is not None and len(value.numerator) + len(value.denominator) > 2:
                terms = max(len(value.numerator), len(value.denominator))
                grown = comb(terms + min(abs(int(n)), 24) - 1, terms - 1)
                self.spend(grown * terms)
            value = exact.power(value, exponent)
        return value

    def exponent(self) -> Exact:
        negative = self.peek() == "-"
        if negative:
            self.take()
        value = self.operand()
        if self.peek() == "^":  # a^b^c is read from the right
            self.take()
            self.descend()
            value = exact.power(value, self.exponent())
            self.depth -= 1
        return -value if negative else value

    def operand(self) -> Exact:
        self.descend()
        value = self.read_operand()
        self.depth -= 1
        return value

    def read_operand(self) -> Exact:
        kind, token = self.kind(), self.take()
        if kind == "number":
            return self.mixed_number(token)
        if kind == "letter":
            return self.letter(token)
        if token in ("(", "[", "{"):
            return self.until(_CLOSING[token])
        if token == "|":
            return self.absolute(self.until("|"))
        if kind == "command":
            return self.command(token)
        raise NotExact(f"unexpected {token}")

    def until(self, closing: str) -> Exact:
        value = self.sum()
        self.expect(closing)
        return value

    def mixed_number(self, literal: str) -> Exact:
        """A literal, or a mixed number such as 1\\frac{4}{5}: a whole number, then a proper fraction of literals."""
        value = exact.number(decimal_fraction(literal))
        following = [text for _, text in self.tokens[self.position : self.position + 7]]
        if literal.isdigit() and len(following) == 7 and following[:2] == ["\\frac", "{"]:
            top, middle, bottom = following[2], following[3:5], following[5]
            if top.isdigit() and middle == ["}", "{"] and bottom.isdigit() and following[6] == "}":
                part = decimal_fraction(top) / (decimal_fraction(bottom) or 1)
                after = self.tokens[self.position + 7][1] if self.position + 7 < len(self.tokens) else ""
                if 0 < part < 1 and after != "^":
                    self.position += 7
                    return value + exact.number(part)
        return value

    def subscript(self) -> str:
        """The text of a following subscript: part of a name, never a value."""
        if self.peek() != "_":
            return ""
        self.take()
        if self.peek() != "{":
            return "_" + self.take()
        parts, depth = [], 0
        while True:
            token = self.take()
            depth += (token == "{") - (token == "}")
            if depth == 0:
                return "_" + "".join(part for part in parts if part not in ("{", "}", "\\text"))
            parts.append(token)

    def letter(self, name: str) -> Exact:
        subscript = self.subscript()
        if name == "i" and not subscript:
            return exact.IMAGINARY_UNIT
        if self.peek() == "(" and (name[0] in _APPLIED or self.applied_to_one_token()):
            self.take()
            return exact.atom(name + subscript, self.until(")"))
        return exact.symbol(name + subscript)

    def applied_to_one_token(self) -> bool:
        """x(t) and I(0) are applications as well, and not products."""
        inside = self.tokens[self.position + 1 : self.position + 3]
        return len(inside) == 2 and inside[0][0] in ("number", "letter") and inside[1][1] == ")"

    def absolute(self, value: Exact) -> Exact:
        if value.fraction is None:
            return exact.atom("abs", value)
        return exact.number(abs(value.fraction))

    def argument(self, single_digit: bool = False) -> Exact:
        """What a command acts on: a group, or one token (\\frac12 has arguments 1 and 2, \\sqrt12 has 12)."""
        kind, token = self.kind(), self.peek()
        if kind == "number" and single_digit and len(token) > 1 and token.isdigit():
            self.tokens[self.position] = ("number", token[1:])
            return exact.number(int(token[0]))
        if kind == "number":
            return exact.number(decimal_fraction(self.take()))
        if token in ("{", "(") or kind in ("command", "letter"):
            return self.operand()
        raise NotExact("argument")

    def command(self, command: str) -> Exact:
        name = command[1:]
        if name == "frac":
            top = self.argument(single_digit=True)
            return self.combine(top, self.argument(single_digit=True), "/")
        if name == "sqrt":
            index = exact.number(2)
            if self.peek() == "[":
                self.take()
                index = self.until("]")
            self.spend(30)
            return exact.power(self.argument(), exact.number(1) / index)
        if name == "binom":
            return exact.binomial_of(self.argument(single_digit=True), self.argument(single_digit=True))
        if command in ("\\lfloor", "\\lceil"):
            value = self.until(_CLOSING[command])
            if value.fraction is None:
                return exact.atom(name, value)
            return exact.number(value.fraction.__floor__() if name == "lfloor" else value.fraction.__ceil__())
        if name in _GREEK:
            return exact.symbol(name + self.subscript())
        if name in _FUNCTIONS:
            return self.function(name)
        raise NotExact(f"command {command}")

    def function(self, name: str) -> Exact:
        """sin x, \\log_2 8, \\cos^2 (2 t): an atom, for the values of these are not in the field."""
        base = self.subscript()
        exponent = None
        if self.peek() == "^":
            self.take()
            exponent = self.exponent()
        if self.peek() in ("(", "{"):
            value = self.operand()
        else:
            value = self.power()
            while self.kind() in ("number", "letter", "command") and self.peek() not in _STOP:
                if self.peek()[1:] in _FUNCTIONS:
                    break
                value = self.combine(value, self.power(), "*")
        result = exact.atom(name + base, value)
        return result if exponent is None else exact.power(result, exponent)


_PLAIN = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?")


def exact_value(text: str) -> Exact:
    """The value of one expression. NotExact if it cannot be read, TooBig if it is explosive."""
    if _PLAIN.fullmatch(text):
        value = decimal_fraction(text.lstrip("+-"))
        return exact.number(-value if text[0] == "-" else value)
    return _Parser(text).whole()
