"""Units and other words that may stand after a number without changing it."""

import re

# SI symbols with their prefixes, and the units of school problems.
_SYMBOL = re.compile(
    r"(?:[pnuμmcdkMGT]|da|h)?(?:m|g|s|A|K|mol|cd|Hz|N|Pa|J|W|C|V|F|T|H|L|l|eV|pc|bar|cal|b|rad|sr|ohm|erg|B)"
)
_UNITS_TEXT = """
    min hr hrs h d wk yr ft in yd mi lb lbs oz mph kph kmh AU deg sec secs mins sq cu sqft per way ways day days
    men cup cups pts pt gal qt ha amu ly dB USD EUR cents cent dollar dollars degree degrees 
"""
_UNITS = frozenset(_UNITS_TEXT.split())
# Numerals, quantities, operations, denials and comparisons: closed classes of words that change a number.
_CHANGING_TEXT = """
    zero one two three four five six seven eight nine ten eleven twelve twenty thirty forty fifty sixty seventy
    eighty ninety hundred thousand million billion trillion quadrillion dozen score gross pair pairs couple half
    halves third quarter quarters fifth sixth eighth ninth tenth percent percents permille twice thrice double
    triple quadruple treble single multiple multiples times time plus minus add added subtract less more fewer
    greater larger smaller bigger higher lower above below over under between within off short least most than to
    from through until up down and or nor xor either neither both if unless except but besides not no non none
    never cannot isnt wrong false incorrect invalid untrue opposite negative neg positive nonnegative inverse
    reciprocal conjugate complement factorial square squared cube cubed root power powers exponent log modulo mod
    base binary octal decimal hexadecimal hex radix remainder ratio divided divide multiplied multiply by is are
    was be equals equal maybe perhaps possibly probably likely about approximately around roughly nearly almost
    exactly only pi sqrt infinity nil nothing unknown impossible undefined reversed backwards flipped digits
    digit first last answer solution right correct true choice option part case step
"""
_CHANGING = frozenset(_CHANGING_TEXT.split())
_CHANGING_ENDINGS = (
    "fold",
    "fths",
    "xths",
    "enths",
    "ghths",
    "inths",
    "ieths",
    "urths",
    "dths",
    "ionths",
    "teen",
    "ty",
    "ed",
    "ly",
    "est",
    "less",
    "nth",
    "illion",
    "illions",
    "plex",
)
_SQUARES = frozenset(("square", "cubic", "sq", "cu"))  # in front of a unit they belong to it
_WORD = re.compile(r"[A-Za-z]{3,20}")

_SAME = {
    "centimeter": "cm", "centimetre": "cm", "meter": "m", "metre": "m", "kilometer": "km", "kilometre": "km",
    "millimeter": "mm", "inch": "in", "inche": "in", "foot": "ft", "feet": "ft", "yard": "yd", "mile": "mi",
    "second": "s", "sec": "s", "minute": "min", "hour": "h", "hr": "h", "gram": "g", "kilogram": "kg",
    "degree": "deg", "radian": "rad", "cent": "cent", "dollar": "dollar", "usd": "dollar", "liter": "l", "litre": "l",
    "pound": "lb", "lb": "lb", "ounce": "oz", "day": "day", "week": "week", "year": "year", "yr": "year",
}  # fmt: skip
_CONFLICTS = frozenset(_SAME.values()) | {"mg", "nm", "pm", "ms", "ns", "ml"}


def is_unit_word(word: str, in_text: bool) -> bool:
    """True if the word can follow a number and leave it what it is."""
    if word in _UNITS or _SYMBOL.fullmatch(word):
        return True
    lower = word.lower()
    if not _WORD.fullmatch(word) or lower in _CHANGING or lower.removesuffix("s") in _CHANGING:
        return False
    return not lower.endswith(_CHANGING_ENDINGS) and (in_text or len(word) > 3)


def belongs_to_next(word: str) -> bool:
    """True for the "square" of square units: a word that is part of the unit behind it."""
    return word.lower() in _SQUARES


def conflict(left: str, right: str) -> bool:
    """True if two units are known to be different ones: cents and dollars, m and km."""
    known = [_SAME.get(unit.lower().rstrip("s"), unit) for unit in (left, right)]
    return known[0] != known[1] and all(unit in _CONFLICTS for unit in known)
