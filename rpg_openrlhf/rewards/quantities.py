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
_PERCENTS = ((1, "%"), (1, "percent"), (1, "percentage"), (1, "pct"), (3, "pct"), (2, "percent"), (4, "percent"))
_UNIT_COMMANDS = frozenset((r"\AA", r"\Omega", r"\mu", r"\degreesign"))
_EXPONENT = re.compile(r"\^(?:-?[1-4]|\{-?[1-4]\})")
_LINKS = frozenset(("/", r"\cdot", r"\times", "."))

# SI symbols with their prefixes, and the units of school problems.
_SYMBOL = re.compile(
    r"(?:[pnuμmcdkMGT]|da|h)?(?:m|g|s|A|K|mol|cd|Hz|N|Pa|J|W|C|V|F|T|H|L|l|eV|pc|bar|cal|b|rad|sr|ohm|erg|B)"
)
_UNITS, _CHANGING = words_of("units"), words_of("changing")
_CHANGING_ENDINGS = tuple(words_of("changing_endings"))
_POWERS = {"square": "2", "sq": "2", "cubic": "3", "cu": "3"}  # before a unit they belong to it
_WORD = re.compile(r"[A-Za-z]{3,20}")

_SAME = synonyms("same_units")
_CONFLICTS = frozenset(_SAME.values()) | {"mg", "nm", "pm", "ms", "ns"}


def is_unit_word(word: str, in_text: bool) -> bool:
    """True if the word can follow a number without changing its value."""
    if word in _UNITS or _SYMBOL.fullmatch(word):
        return True
    lower = word.lower()
    if not _WORD.fullmatch(word) or lower in _CHANGING or lower.removesuffix("s") in _CHANGING:
        return False
    return not lower.endswith(_CHANGING_ENDINGS) and (in_text or len(word) > 3)


def conflict(left: str, right: str) -> bool:
    """True if two units are known to be different: cents and dollars, m and km, m and m^2, m/s and km/h."""
    units = left.split(), right.split()
    bases = {"/ms" if part == "/ms" else part.lstrip("/").partition("^")[0] for part in (*units[0], *units[1])}
    return sorted(units[0]) != sorted(units[1]) and bases <= _CONFLICTS  # /ms may be 1/ms or m/s


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
    """The tokens of the value, and its unit or None: 42 cm, 42 (cm)."""
    opening = next((index for index, token in enumerate(tokens) if token.text == "("), 0)
    inside = tokens[opening + 1 : -1] if opening and tokens[-1].text == ")" else ()
    if inside and tokens[opening - 1].text[-1] in "}0123456789" and (bare_letters or inside[0].kind == "word"):
        tokens = tokens[:opening] + inside if _unit_phrase(inside) else tokens
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
    """Name of the unit if the tokens are only units and exponents: m/s is "m /s", square inches "in^2"."""
    position, names, over, power = 0, [], "", ""
    while position < len(tokens):
        token, position = tokens[position], position + 1
        word, is_last = token.text.lower(), position == len(tokens)
        if word == "per" or (token.text in _LINKS and (names or power) and not is_last):
            over = "/" if word in ("per", "/") else over
            continue
        if word in _POWERS and not is_last:
            power = _POWERS[word]
            continue
        if token.text == "." and is_last:
            break
        run = _run(tokens, position - 1) if token.kind == "letter" else token.text
        is_unit = token.kind in ("word", "letter") and is_unit_word(run, token.kind == "word")
        if not (is_unit or run in _UNIT_COMMANDS) or (run == r"\mu" and is_last):
            return None
        position += len(run) - 1 if token.kind == "letter" else 0
        length = _exponent_length(tokens[position:])
        exponent = text_of(tokens[position : position + length]).strip("^{}") or power
        position += length
        over, exponent = "/" if exponent[:1] == "-" else over, exponent.lstrip("-")
        names.append(over + _canonical(run) + (f"^{exponent}" if exponent not in ("", "1") else ""))
        over = power = ""
    return " ".join(names) or None


def _canonical(name: str) -> str:
    """The name of a unit that has several."""
    return name if name in _CONFLICTS else _SAME.get(name) or _SAME.get(name.lower().removesuffix("s"), name)


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
