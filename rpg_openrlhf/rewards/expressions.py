r"""Tokens of one expression to a `Number`, by recursive descent; nothing is ever evaluated as code.

sum      = ["+" | "-"] product { ("+" | "-") product }
product  = power { ["*" | "/" | "\cdot" | ...] power }        juxtaposition multiplies
power    = operand { "!" | "^" exponent | degree sign }
operand  = number | letter | "(" sum ")" | "|" sum "|" | \frac | \sqrt | \binom | function argument
"""

import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from math import gcd, lcm

from rpg_openrlhf.rewards import functions, numbers
from rpg_openrlhf.rewards.lexer import Token
from rpg_openrlhf.rewards.notation import words_of
from rpg_openrlhf.rewards.numbers import NotExact, Number, decimal_fraction, rational
from rpg_openrlhf.rewards.token_reader import TokenReader

_GREEK = frozenset(rf"\{name}" for name in words_of("greek"))
TRIGONOMETRY = frozenset(rf"\{name}" for name in functions.TRIGONOMETRY)
_OF_MANY: dict[str, Callable[[list[Fraction]], Fraction | int]] = {
    r"\gcd": lambda values: gcd(*map(int, values)),
    r"\lcm": lambda values: lcm(*map(int, values)),
    r"\max": max,
    r"\min": min,
}
_FUNCTIONS = {rf"\{name}" for name in (*functions.FUNCTIONS, "log", "lg")} | set(_OF_MANY)
_TIMES = frozenset(("*", r"\cdot", r"\times"))
_OVER = frozenset(("/", r"\div"))
_CLOSING = {"(": ")", "[": "]", "{": "}", r"\lfloor": r"\rfloor", r"\lceil": r"\rceil"}
_STOP = frozenset(("+", "-", ")", "]", "}", "|", "!", "^", ",", *_CLOSING.values(), *_TIMES, *_OVER))
_STOP_ARGUMENT = _STOP | _FUNCTIONS
_APPLIED = frozenset("fghFGHPE")  # f(x + 1) is an application, x(x + 1) a product
_ACCENTS = frozenset((r"\vec", r"\overline", r"\bar", r"\hat", r"\tilde", r"\dot", r"\ddot", r"\widehat"))
_FIGURES = frozenset((r"\angle", r"\triangle"))
_SIMPLE = re.compile(r"\d+")


class _Parser(TokenReader):
    def __init__(self, tokens: Sequence[Token]):
        super().__init__(tokens)
        self.bars, self.in_angle = 0, False

    def sum(self) -> Number:
        value = self.signed_product()
        while self.peek() in ("+", "-"):
            value = value + self.signed_product()
        return value

    def signed_product(self) -> Number:
        negative = False
        while self.peek() in ("+", "-"):
            negative ^= self.take() == "-"
        value = self.product()
        return -value if negative else value

    def product(self) -> Number:
        value = self.power()
        while self.kind() != "past":
            token = self.peek()
            if token in _TIMES or token in _OVER:
                self.take()
                negative = not self.accept("+") and self.accept("-")
                right = -self.power() if negative else self.power()
                value = value / right if token in _OVER else value * right
            elif token in _STOP and not (token == "|" and self.bars == 0):
                break
            else:
                self.refuse_digits_side_by_side()
                value = value * self.power()
        return value

    def power(self) -> Number:
        value = self.operand()
        while self.peek() in ("!", "^", r"\degreesign"):
            if self.accept("!", "!"):
                value = numbers.opaque("double factorial", value)
            elif self.accept("!"):
                value = functions.factorial_of(value)
            elif self.accept(r"\degreesign"):
                value = value * numbers.constant("pi") / rational(180) if self.in_angle else value
            elif self.accept("^"):
                value = functions.power(value, self.exponent())
        return value

    def exponent(self) -> Number:
        negative = self.accept("-")
        value = self.operand()
        if self.accept("^"):  # a^b^c is read from the right
            self.descend()
            value = functions.power(value, self.exponent())
            self.depth -= 1
        return -value if negative else value

    def operand(self) -> Number:
        self.descend()
        value = self.read_operand()
        self.depth -= 1
        return value

    def read_operand(self) -> Number:
        kind, token = self.kind(), self.take()
        if kind == "number":
            return self.number(token)
        if kind == "letter" or (kind == "word" and len(token) == 1):
            return self.letter(token)
        if token in ("(", "[", "{"):
            return self.until(_CLOSING[token])
        if token == "|":
            self.bars += 1
            value = self.until("|")
            self.bars -= 1
            return functions.apply("abs", value)
        if kind == "command":
            return self.command(token)
        raise NotExact(f"unexpected {token}")

    def until(self, closing: str) -> Number:
        value = self.sum()
        self.expect(closing)
        return value

    def number(self, literal: str) -> Number:
        if self.peek() == "_":
            raise NotExact("a numeral with a base")
        value = self.repeating(literal) or decimal_fraction(literal)
        return rational(value + self.proper_fraction(literal) if literal.isdigit() else value)

    def repeating(self, literal: str) -> Fraction | None:
        r"""Exact value of a repeating decimal, such as 0.1\overline{6}; None without a period."""
        if (
            self.peek() not in (r"\overline", r"\bar", r"\dot")
            or self.peek(1) != "{"
            or self.peek(3) != "}"
            or "." not in literal
        ):
            return None
        period = self.peek(2)
        if not _SIMPLE.fullmatch(period) or len(literal) + len(period) > 120 or self.tokens[self.position].spaced:
            raise NotExact("period")
        self.position += 4
        places = len(literal.partition(".")[2])
        return decimal_fraction(literal) + Fraction(int(period), (10 ** len(period) - 1) * 10**places)

    def proper_fraction(self, whole: str) -> Fraction:
        r"""The fraction of a mixed number: 1\frac{4}{5}, 1 4/5 (a space between); 0 if none follows."""
        texts = [self.peek(i) for i in range(8)]
        if texts[:2] == [r"\frac", "{"] and texts[3:5] == ["}", "{"] and texts[6] == "}":
            top, bottom, length = texts[2], texts[5], 7
        elif texts[1] == "/" and self.kind() == "number" and self.tokens[self.position].spaced:
            top, bottom, length = texts[0], texts[2], 3
        elif texts[0] == r"\frac" and _SIMPLE.fullmatch(texts[1]) and len(texts[1]) == 2:  # \frac45
            top, bottom, length = texts[1][0], texts[1][1], 2
        else:
            return Fraction(0)
        if not (_SIMPLE.fullmatch(top) and _SIMPLE.fullmatch(bottom)) or self.peek(length) in ("^", "!", "_"):
            return Fraction(0)
        if whole == "0" or not 0 < decimal_fraction(top) < decimal_fraction(bottom):
            raise NotExact("a whole number beside a fraction")
        self.position += length
        return decimal_fraction(top) / decimal_fraction(bottom)

    def letter(self, name: str) -> Number:
        name += self.subscript()
        if name in ("i", "e"):
            return numbers.constant(name)
        inverse = name[0] in _APPLIED and self.inverse_sign()
        of_one_token = self.kind(1) in ("number", "letter") and self.peek(2) == ")"  # x(t) and I(0)
        if (inverse or name[0] in _APPLIED or of_one_token) and self.accept("("):
            return numbers.opaque(name + "^-1" * inverse, *self.arguments())
        if inverse:
            raise NotExact("inverse function")
        return numbers.letter(name)

    def arguments(self) -> list[Number]:
        values = [self.sum()]
        while self.accept(","):
            values.append(self.sum())
        self.expect(")")
        return values

    def argument(self, single_digit: bool = False) -> Number:
        r"""Argument of a command: a group, or one token (\frac12 has arguments 1 and 2, \sqrt12 has 12)."""
        kind, token = self.kind(), self.peek()
        if kind == "number":
            if single_digit and len(token) > 1:
                if not _SIMPLE.fullmatch(token):
                    raise NotExact("argument")
                self.tokens[self.position] = Token("number", token[1:])
                return rational(int(token[0]))
            return rational(decimal_fraction(self.take()))
        if token in ("{", "(") or kind in ("command", "letter"):
            return self.operand()
        raise NotExact("argument")

    def command(self, command: str) -> Number:
        name = command[1:]
        if name == "frac" and self.is_derivative():
            return numbers.opaque("d " + self.group_text() + " / d " + self.group_text())
        if name in ("frac", "binom"):
            top, bottom = self.argument(single_digit=True), self.argument(single_digit=True)
            return top / bottom if name == "frac" else functions.binomial_of(top, bottom)
        if name == "sqrt":
            degree = self.until("]") if self.accept("[") else rational(2)
            return functions.power(self.argument(), rational(1) / degree)
        if command in (r"\lfloor", r"\lceil"):
            return functions.apply("floor" if name == "lfloor" else "ceil", self.until(_CLOSING[command]))
        if name == "pi" and self.peek() != "_":
            return numbers.constant("pi")
        if command in _GREEK or name == "pi":
            return numbers.letter(name + self.subscript())
        if command in _FIGURES:
            return numbers.letter(name + self.corners())
        if command in _ACCENTS:
            return numbers.letter(name + self.group_text() + self.subscript())
        if command in _FUNCTIONS:
            return self.function(command)
        raise NotExact(f"command {command}")

    def function(self, command: str) -> Number:
        r"""Value of a function: sin x, \log_2 8, \cos^2 (2 t), \tan^{-1} 2."""
        if command in _OF_MANY:
            return self.function_of_many(command)
        base = self.argument(single_digit=True) if command == r"\log" and self.accept("_") else None
        inverse = command in TRIGONOMETRY and self.inverse_sign()
        exponent = self.exponent() if not inverse and self.accept("^") else None
        outside, self.in_angle = self.in_angle, command in TRIGONOMETRY and not inverse
        is_group = self.peek() in ("(", "{", "[")
        value = self.operand() if self.peek() in ("(", "[") else self.power()
        while not is_group and self.kind() in ("number", "letter", "command") and self.peek() not in _STOP_ARGUMENT:
            self.refuse_digits_side_by_side()
            value = value * self.power()
        self.in_angle = outside
        name = command[1:]
        if name in ("log", "lg"):
            result = functions.logarithm(value, rational(10) if name == "lg" else base)
        else:
            result = functions.apply("arc" + name if inverse else name, value)
        return result if exponent is None else functions.power(result, exponent)

    def function_of_many(self, command: str) -> Number:
        self.expect("(")
        values = self.arguments()
        exact = [value.exact for value in values if value.exact is not None]
        are_integers = all(value.denominator == 1 for value in exact)
        if len(exact) < len(values) or not (are_integers or command in (r"\max", r"\min")):
            return numbers.opaque(command, *values)
        return rational(_OF_MANY[command](exact))


def evaluate(tokens: Sequence[Token]) -> Number:
    """Value of one expression. NotExact if it cannot be read, TooBig if it exceeds the limits on size and work."""
    parser = _Parser(tokens)
    value = parser.sum()
    if parser.kind() != "past":
        raise NotExact(f"unexpected {parser.peek()}")
    return value
