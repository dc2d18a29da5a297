"""Reader of the tokens of one expression, from left to right: the part of the parser that needs no numbers."""

from collections.abc import Sequence

from rpg_openrlhf.rewards.lexer import Token
from rpg_openrlhf.rewards.numbers import NotExact, TooBig

_PAST = (Token("past", ""),) * 10  # longer than any lookahead
MAX_DEPTH = 24  # nested groups; a final answer has a few


class TokenReader:
    """Position in the tokens. Raises NotExact if the next token does not fit into an expression."""

    def __init__(self, tokens: Sequence[Token]):
        self.tokens = [*tokens, *_PAST]
        self.position, self.depth = 0, 0

    def peek(self, ahead: int = 0) -> str:
        """Text of a token, the next one or one after it; "" past the end."""
        return self.tokens[self.position + ahead].text

    def kind(self, ahead: int = 0) -> str:
        """Kind of a token, the next one or one after it; "past" past the end."""
        return self.tokens[self.position + ahead].kind

    def take(self) -> str:
        """Read the next token."""
        if self.kind() == "past":
            raise NotExact("the end came too early")
        self.position += 1
        return self.tokens[self.position - 1].text

    def accept(self, *texts: str) -> bool:
        """Read the next tokens if they are these."""
        for ahead, text in enumerate(texts):
            if self.tokens[self.position + ahead].text != text:
                return False
        self.position += len(texts)
        return True

    def expect(self, token: str) -> None:
        """Read a token that must be there."""
        if self.take() != token:
            raise NotExact(f"expected {token}")

    def descend(self) -> None:
        """Count a group within a group; TooBig beyond MAX_DEPTH."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise TooBig("depth")

    def refuse_digits_side_by_side(self) -> None:
        r"""Raise NotExact for 4 2, 4{2}, x^{4}2 and 30^\circ 2, which are not products; n 2^{n} and (n-2)180 are."""
        before = self.tokens[self.position - 1]
        if before.kind != "number" and before.text not in ("}", r"\degreesign"):
            return
        braces = 0
        while self.peek(braces) == "{":
            braces += 1
        if self.kind(braces) == "number" or (braces and self.peek(braces) in ("-", "+", r"\frac")):
            raise NotExact("two numbers side by side")

    def subscript(self) -> str:
        """Take the text of a following subscript, which is part of a name, never a value."""
        return "_" + self.group_text().replace("{", "").replace("}", "") if self.accept("_") else ""

    def inverse_sign(self) -> bool:
        """Take the ^{-1} of an inverse function."""
        if self.accept("^", "-", "1"):
            return True
        return self.peek(5) not in ("^", "!") and self.accept("^", "{", "-", "1", "}")

    def corners(self) -> str:
        r"""Take the points of an angle or a triangle: \angle ABC."""
        if self.peek() == "{":
            return self.group_text()
        points = ""
        while self.kind() == "letter" and self.peek()[0].isupper():
            points += self.take() + self.subscript()
        if not points:
            raise NotExact("figure")
        return points

    def is_derivative(self) -> bool:
        r"""True for \frac{d y}{d x}, where d is not a factor."""
        texts = [token.text for token in self.tokens[self.position :]]
        kinds = [token.kind for token in self.tokens[self.position :]]
        if texts[:1] != ["{"] or texts[1:2] not in (["d"], [r"\partial"]):
            return False
        end = texts.index("}") if "}" in texts else 0
        bottoms = [i for i in range(end, len(texts) - 3) if texts[i : i + 3] == ["}", "{", texts[1]]]
        return bool(bottoms) and kinds[bottoms[0] + 3] in ("letter", "command")

    def group_text(self) -> str:
        """Take the text of a group or of one token, as part of a name."""
        text, depth = self.take(), 1
        while text[0] == "{" and depth:
            token = self.take()
            depth += (token == "{") - (token == "}")
            text += token
        return text
