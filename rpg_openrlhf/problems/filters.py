r"""Rules that decide which rows are kept: language, answer, and rows that state the same problem."""

import re
from hashlib import blake2b

from rpg_openrlhf.rewards.grading import grade
from rpg_openrlhf.rewards.numbers import plain_integer

# One letter of Han, kana or hangul is enough. Single letters of other scripts occur in English as names of points or
# sets (mostly Cyrillic typed for Latin), so these need two in a row. Greek is mathematics.
_OTHER_SCRIPT = re.compile(
    "[\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003134f]"
    "|[\u0400-\u052f]{2}|[\u0531-\u058f]{2}|[\u0590-\u08ff]{2}|[\u0900-\u0fff]{2}|[\u10a0-\u10ff]{2}"
)
# A dot between digits is a decimal point: 1.5 is not 15.
_SPACING = re.compile(r"[\s$]+|(?<!\d)\.|\.(?!\d)")
_FRACTION = re.compile(r"\\[dt]frac")
_WRAPPING = re.compile(r"^(?:[\s$]|\\\(|\\\[)+|(?:[\s$.]|\\\)|\\\])+$")


def is_english(text: str) -> bool:
    """True if the text has no foreign script; a French problem passes."""
    return text.isascii() or not _OTHER_SCRIPT.search(text)


def digest(text: str) -> bytes:
    """Hash of 16 bytes, to store millions of texts."""
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def spacing_key(text: str) -> str:
    r"""Text without spaces, dollars and sentence dots, and with \frac for \dfrac: equal keys mean copies."""
    return _SPACING.sub("", _FRACTION.sub(r"\\frac", text))


def integer(answer: str) -> str | None:
    """The plain digits of 042, $7$, 42.0 or 1,234; None if it is not an integer."""
    return plain_integer(_WRAPPING.sub("", answer))


def is_gradable(answer: str) -> bool:
    """True if the grader accepts the answer as its own. Otherwise no reply to the problem could be rewarded."""
    return integer(answer) is not None or grade(f"Answer: {answer}", answer).is_correct


def same_answer(first: str, second: str) -> bool:
    """True if two answers are equal as texts, as integers, or for the grader."""
    if first == second:
        return True
    left, right = integer(first), integer(second)
    if left is not None and right is not None:
        return left == right
    return grade(f"Answer: {second}", first).is_correct
