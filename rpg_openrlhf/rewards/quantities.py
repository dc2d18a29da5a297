"""Units, per cent signs and rounded values that may follow a number."""

import re
from collections.abc import Sequence

from rpg_openrlhf.rewards.expressions import TRIGONOMETRY, evaluate
from rpg_openrlhf.rewards.lexer import Token
from rpg_openrlhf.rewards.notation import synonyms, words_of
from rpg_openrlhf.rewards.numbers import NotExact, TooBig
from rpg_openrlhf.rewards.token_text import text_of
from rpg_openrlhf.rewards.values import Equation, Leaf, Tokens, Value

ROUNDING = 0.01  # relative tolerance of a rounded value in a remark
_SIZE_WORDS = frozenset(("about", "approximately", "approx", "roughly", "rounded"))
_MULTIPLES = {"thousand": "3", "million": "6", "billion": "9", "trillion": "12"}
# Number of tokens, and their text: "per cent" is two words, or a word and three letters.
_PERCENTS = ((1, "%"), (1, "percent"), (1, "percentage"), (3, "pct"), (2, "percent"), (4, "percent"))
_UNIT_COMMANDS = frozenset((r"\AA", r"\Omega", r"\mu"))
_EXPONENT = re.compile(r"\^(?:-?[1-4]|\{-?[1-4]\})")
_LINKS = frozenset(("/", r"\cdot", r"\times", "."))

# SI symbols with their prefixes, and the units of school problems.
_SYMBOL = re.compile(
    r"(?:[pnuμmcdkMGT]|da|h)?(?:m|g|s|A|K|mol|cd|Hz|N|Pa|J|W|C|V|F|T|H|L|l|eV|pc|bar|cal|b|rad|sr|ohm|erg|B)"
)
_UNITS, _CHANGING = words_of("units"), words_of("changing")
_CHANGING_ENDINGS = tuple(words_of("changing_endings"))
_SQUARES = frozenset(("square", "cubic", "sq", "cu"))  # before a unit they belong to it
_WORD = re.compile(r"[A-Za-z]{3,20}")

_SAME = synonyms("same_units")
_CONFLICTS = frozenset(_SAME.values()) | {"mg", "nm", "pm", "ms", "ns", "ml"}


def is_unit_word(word: str, in_text: bool) -> bool:
    """True if the word can follow a number without changing its value."""
    if word in _UNITS or _SYMBOL.fullmatch(word):
        return True
    lower = word.lower()
    if not _WORD.fullmatch(word) or lower in _CHANGING or lower.removesuffix("s") in _CHANGING:
        return False
    return not lower.endswith(_CHANGING_ENDINGS) and (in_text or len(word) > 3)


def conflict(left: str, right: str) -> bool:
    """True if two units are known to be different: cents and dollars, m and km."""
    known = [_SAME.get(unit.lower().rstrip("s"), unit) for unit in (left, right)]
    return known[0] != known[1] and all(unit in _CONFLICTS for unit in known)


def with_multiples(tokens: Tokens) -> Tokens:
    """Replace words for powers of ten: 1 million becomes 1 times 10^6."""
    expanded: list[Token] = []
    for token in tokens:
        power = _MULTIPLES.get(token.text.lower()) if token.kind == "word" else None
        if power and expanded and expanded[-1].kind == "number":
            ten = (Token("command", r"\cdot"), Token("number", "10"), Token("mark", "^"), Token("number", power))
            expanded.extend(ten)
        else:
            expanded.append(token)
    return tuple(expanded)


def split_percent(tokens: Tokens) -> tuple[Tokens, bool]:
    r"""Split off a per cent sign: 50\%, 50 percent, 50 per cent, 50 pct -> the number, and True if there was one."""
    texts = [token.text.lower() for token in tokens]
    for count, text in _PERCENTS:
        if len(tokens) > count and "".join(texts[-count:]) == text:
            return tokens[:-count], True
    return tokens, False


def split_unit(tokens: Tokens, bare_letters: bool) -> tuple[Tokens, str | None]:
    """The tokens of the value, and its unit or None."""
    for start in range(1, len(tokens)):
        if not _may_begin(tokens, start, bare_letters):
            continue
        unit = _unit_phrase(tokens[start:])
        if unit is not None:
            value = tokens[:start]
            while len(value) > 1 and value[-1].text in ("/", r"\cdot", r"\times"):
                value = value[:-1]
            return value, unit
    return tokens, None


def _may_begin(tokens: Tokens, start: int, bare_letters: bool) -> bool:
    """True if a unit may begin here: a word after any value, single letters only after numbers."""
    token, before = tokens[start], tokens[:start]
    if before[-1].text in ("_", "^", "{", "(", "=", "+", "-", "|"):
        return False
    if token.text == r"\degreesign":
        return not any(t.text in TRIGONOMETRY for t in before)  # in the argument of a sine the degree is a number
    if token.kind == "word" or (bare_letters and token.text in _UNIT_COMMANDS):
        return True
    if token.kind != "letter" or not any(t.kind == "number" or t.text == r"\pi" for t in before):
        return False
    if any(t.kind in ("letter", "word") for t in before):
        return False
    return bare_letters or len(_run(tokens, start)) > 1


def _run(tokens: Sequence[Token], start: int) -> str:
    """The adjacent letters that begin here."""
    text = tokens[start].text
    for token in tokens[start + 1 :]:
        if token.kind != "letter" or token.spaced:
            break
        text += token.text
    return text


def _unit_phrase(tokens: Tokens) -> str | None:
    """Name of the unit if the tokens are only units and exponents: cm^2, square units, m/s, miles per hour."""
    position, names = 0, []
    while position < len(tokens):
        token = tokens[position]
        if token.text == r"\degreesign":
            name, position = "deg", position + 1
        elif token.kind == "word" and token.text.lower() in _SQUARES and position + 1 < len(tokens):
            name, position = "square", position + 1
        elif token.kind == "word" and is_unit_word(token.text, True):
            name, position = token.text, position + 1
        elif token.kind == "letter" and is_unit_word(_run(tokens, position), False):
            name = _run(tokens, position)
            position += len(name)
        elif token.text in _UNIT_COMMANDS and (token.text != r"\mu" or position + 1 < len(tokens)):
            name, position = token.text, position + 1
        elif token.text in _LINKS and names and position + 1 < len(tokens):
            name, position = "/" if token.text == "/" else "", position + 1
        elif token.text == "." and position + 1 == len(tokens):
            break
        else:
            return None
        names.append(name)
        position += _exponent_length(tokens[position:])
    return "".join(names) or None


def _exponent_length(tokens: Tokens) -> int:
    """Number of tokens of a unit's exponent: ^2, ^{-1}."""
    return next((length for length in range(2, 6) if _EXPONENT.fullmatch(text_of(tokens[:length]))), 0)


def split_remark(tokens: Tokens) -> tuple[Tokens, Tokens] | None:
    """The value and the remark of `737/39 (about 18.9 cards)`."""
    if tokens[-1].text != ")":
        return None
    start = max(index for index, token in enumerate(tokens) if token.text == "(" or index == 0)
    first = tokens[start + 1] if start + 1 < len(tokens) else tokens[start]
    if start == 0 or not (first.text.lower() in _SIZE_WORDS or first.text == r"\approx"):
        return None
    return tokens[:start], tokens[start + 2 : -1]


def close(value: Value, remark: Tokens) -> bool:
    """True if the rounded number in a remark is about the exact value, or the remark holds no number."""
    exact = value.last if isinstance(value, Equation) else value
    tokens, _ = split_unit(remark, True) if remark else (remark, None)
    tokens = tuple(token for token in tokens if token.kind != "word" or token.text.lower() != "to")
    if not any(token.kind == "number" for token in tokens):
        return all(is_unit_word(token.text, True) for token in tokens if token.kind == "word")
    try:
        rounded = evaluate(tokens).real()
    except (NotExact, TooBig):
        return False
    if not isinstance(exact, Leaf) or exact.constant is None or rounded is None:
        return False
    size = exact.constant.real()
    return size is not None and abs(size - rounded) <= ROUNDING * abs(size)
