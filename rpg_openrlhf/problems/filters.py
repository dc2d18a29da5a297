r"""Rules that decide which rows are kept: language, answer, and rows that state the same problem."""

import re
from hashlib import blake2b

from rpg_openrlhf.rewards.grading import grade
from rpg_openrlhf.rewards.numbers import plain_integer

# Han, kana, hangul: one letter is enough. Other scripts name a point or a set in English too (Cyrillic letters above
# all, typed for Latin ones), so there it takes two side by side. Greek is mathematics.
_OTHER_SCRIPT = re.compile(
    "[\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003134f]"
    "|[\u0400-\u052f]{2}|[\u0531-\u058f]{2}|[\u0590-\u08ff]{2}|[\u0900-\u0fff]{2}|[\u10a0-\u10ff]{2}"
)
# A dot between digits is a decimal point: 1.5 is not 15.
_SPACING = re.compile(r"[\s$]+|(?<!\d)\.|\.(?!\d)")
_FRACTION = re.compile(r"\\[dt]frac")
_WRAPPING = re.compile(r"^(?:[\s$]|\\\(|\\\[)+|(?:[\s$.]|\\\)|\\\])+$")


def is_english(text: str) -> bool:
    """True by script alone: a French problem passes."""
    return text.isascii() or not _OTHER_SCRIPT.search(text)


def digest(text: str) -> bytes:
    """16 bytes that stand for a text where millions are remembered."""
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def spacing_key(text: str) -> str:
    r"""The same for two texts that differ in spaces, dollars, sentence dots, or \dfrac for \frac."""
    return _SPACING.sub("", _FRACTION.sub(r"\\frac", text))


def integer(answer: str) -> str | None:
    """The plain digits of 042, $7$, 42.0 or 1,234; None for what is no integer."""
    return plain_integer(_WRAPPING.sub("", answer))


def is_gradable(answer: str) -> bool:
    """Does the grader accept the answer as its own? If not, no reply to the problem could ever be rewarded."""
    return integer(answer) is not None or grade(f"Answer: {answer}", answer).is_correct


def same_answer(first: str, second: str) -> bool:
    """Equal as texts, as integers, or for the grader."""
    if first == second:
        return True
    left, right = integer(first), integer(second)
    if left is not None and right is not None:
        return left == right
    return grade(f"Answer: {second}", first).is_correct
