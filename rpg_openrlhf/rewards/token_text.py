r"""Tokens of an answer as text: splitting at separators, names, words, signs and numerals."""

import itertools
import re
from collections.abc import Iterable, Sequence

from rpg_openrlhf.rewards.lexer import Token
from rpg_openrlhf.rewards.numbers import TooBig
from rpg_openrlhf.rewards.values import Tokens, Words

MAX_ITEMS = 200
MAX_SIGNS = 4  # \pm signs in one answer; each doubles the number of values
_OPEN = frozenset(("(", "[", "{", r"\{", r"\lfloor", r"\lceil"))
_CLOSE = frozenset((")", "]", "}", r"\}", r"\rfloor", r"\rceil"))
_TRAILING = frozenset((".", ",", ";", ":", "?"))
_LEADING = frozenset(("=", ":", r"\approx", r"\sim"))
_NUMERALS_TEXT = "two three four five six seven eight nine ten eleven twelve sixteen"
_NUMERALS: dict[str, int] = dict(zip(_NUMERALS_TEXT.split(), [*range(2, 13), 16], strict=True))
_NAME = re.compile(r"(?:[A-Za-z]'*|\\(?!angle)[a-z]+)(?:_(?:\w+|\{[^{}]*\}))?|m?\\angle(?:\{?[A-Z]{1,3}\}?)")


def text_of(tokens: Iterable[Token]) -> str:
    return "".join(token.text for token in tokens)


def is_name(tokens: Sequence[Token]) -> bool:
    """True for a name that can have a value: a letter with primes or a subscript, or an angle."""
    return bool(tokens) and _NAME.fullmatch(text_of(tokens)) is not None and tokens[0].kind in ("letter", "command")


def _depths(tokens: Tokens) -> list[int]:
    """The number of open brackets before each token, and at the end."""
    opened = ((t.text in _OPEN or t.kind == "begin") - (t.text in _CLOSE or t.kind == "end") for t in tokens)
    return list(itertools.accumulate(opened, initial=0))


def split_top(tokens: Tokens, *marks: str) -> list[Tokens]:
    """Split at marks outside all brackets; half-open intervals count as brackets too."""
    if {token.text for token in tokens}.isdisjoint(marks):
        return [tokens]
    depths = _depths(tokens)
    cuts = [index for index, token in enumerate(tokens) if depths[index] == 0 and token.text in marks]
    if len(cuts) >= MAX_ITEMS:
        raise TooBig("items")
    return [tokens[start + 1 : end] for start, end in itertools.pairwise((-1, *cuts, len(tokens)))]


def trim(tokens: Tokens) -> Tokens:
    """The tokens without the punctuation of a sentence around them."""
    start, end = 0, len(tokens)
    while end > start and tokens[end - 1].text in _TRAILING:
        end -= 1
    while start < end and tokens[start].text in _LEADING:
        start += 1
    return tokens[start:end]


def balanced(tokens: Tokens) -> bool:
    """True if all brackets are closed in the tokens; half-open intervals count as closed."""
    depths = _depths(tuple(token for token in tokens if token.kind not in ("begin", "end")))
    return min(depths) == depths[-1] == 0


def words(tokens: Tokens) -> str | None:
    """Phrase in lower case; None if it contains anything but words, or only single letters."""
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
    choices = [*itertools.product("+-", repeat=len(signs))]
    if r"\mp" in signs:
        choices = [tuple(s if sign == r"\pm" else "+-"[s == "+"] for sign in signs) for s in "+-"]
    expanded = []
    for choice in choices:
        chosen = iter(choice)
        expanded.append(tuple(Token("mark", next(chosen)) if t.text in (r"\pm", r"\mp") else t for t in tokens))
    return expanded


def numeral(tokens: Tokens) -> Words | None:
    """Numeral with a base: 1011_2, 4210_{5}, 32_{(8)}, 1011_{\\text{two}}; else None."""
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
    return Words(f"{'minus ' if sign else ''}{digits.lower().lstrip('0') or '0'} base {base}")
