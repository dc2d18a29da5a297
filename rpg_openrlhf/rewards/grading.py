r"""Grading: `grade(response, gold)` compares the last marked answer of a response with the gold answer, exactly.

Integers are compared as digit strings, everything else as values of the grammar of `answers.py`. No response makes it
raise, no text is evaluated as code, and an answer that the grammar cannot decide is wrong.
"""

import itertools
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from rpg_openrlhf.rewards.answers import readings
from rpg_openrlhf.rewards.comparison import Ambiguous, Comparison
from rpg_openrlhf.rewards.extraction import TAIL_CHARACTERS, extract_answer, without_emphasis
from rpg_openrlhf.rewards.lexer import Unreadable
from rpg_openrlhf.rewards.numbers import NotExact, TooBig, plain_integer, start_answer
from rpg_openrlhf.rewards.values import Equation, Leaf, Value, leaves

MAX_ANSWER = 2_000  # characters; a plain integer may be longer

Reason = Literal["correct", "wrong", "no_answer", "ambiguous", "timeout"]
_BEST_FIRST: tuple[Reason, ...] = ("correct", "timeout", "ambiguous", "wrong")


@dataclass(frozen=True)
class Verdict:
    """Result of grading. `extracted` is the answer's text as written; None without a closed and filled marker.

    `timeout`: too costly to compare within the limits on size and work. It counts as wrong. Files and logs keep the
    name; there is no clock.
    """

    is_correct: bool
    extracted: str | None
    reason: Reason


# A run of closing signs is tried from its start only: tried from each of its signs, a long one takes minutes.
_WRAPPING = re.compile(r"^(?:[\s$*`]|\\[(\[])+|(?<![\s$*`.])(?<!\\[)\]])(?:[\s$*`.]|\\[)\]])++$")
_OPTION = re.compile(
    r"\(?([A-J])(?:\)|\.(?=\s)|:)(?:\s|$)|\\text(?:bf)?\{\s*\(?([A-J])\)?[.:]?\s*\}(?=\s|\\ |~|$)", re.ASCII
)
_CHOICE = re.compile(
    r"\(?\s*+(?:\\text(?:bf)?\{\s*+)?(?:[Oo]ption |[Cc]hoice )?\(?\s*+([A-Ja-e])\s*+\)?\s*+\}?\s*+\)?[.:]?"
)
_SECOND_CHOICE = re.compile(r"(?<![A-Za-z])(?:or|and|not|[A-J])(?![A-Za-z])")

_DENIAL = re.compile(r"\b(?:no|not|never|neither|nor|wrong|incorrect|false|unless|except)\b|n['’]t\b", re.IGNORECASE)


@dataclass(frozen=True)
class _Gold:
    text: str
    integer: str | None
    values: tuple[Value, ...]
    is_number: bool
    choice: str | None


@lru_cache(maxsize=8192)
def _read_gold(text: str) -> _Gold:
    boxed = extract_answer(text, tail=len(text)) if "\\boxed" in text else None
    text = (boxed or text).strip()
    integer = plain_integer(_WRAPPING.sub("", text))
    try:
        start_answer()
        values = tuple(readings(without_emphasis(text)))
        for leaf in itertools.chain.from_iterable(map(leaves, values)):
            leaf.reading  # noqa: B018 - cached now, within the gold answer's own limit on work
    except (Unreadable, TooBig, NotExact):
        values = ()
    is_number = integer is not None or any(_is_number(value) for value in values)
    choice = _CHOICE.fullmatch(text) if not re.fullmatch("[a-e]", text) else None  # a lone e is a number or a letter
    return _Gold(text, integer, values, is_number, choice.group(1).upper() if choice else None)


def _is_number(value: Value) -> bool:
    if isinstance(value, Equation):
        return _is_number(value.last)
    return isinstance(value, Leaf) and value.constant is not None


def grade(response: str, gold: str | int | float) -> Verdict:
    """Grade a model's text, without its prompt, against the gold answer. Thread-safe; about a millisecond."""
    truth = _read_gold(str(gold))
    answer = extract_answer(response, max(TAIL_CHARACTERS, 2 * len(truth.text) + 1_000))
    if answer is None:
        return Verdict(False, None, "no_answer")
    reason = _judge(truth, answer)
    return Verdict(reason == "correct", answer, reason)


def _judge(gold: _Gold, answer: str) -> Reason:
    integer = plain_integer(_WRAPPING.sub("", answer))
    if integer is not None and gold.integer is not None:
        if integer == gold.integer:
            return "correct"
        if "," not in gold.text:
            return "wrong"  # else the gold answer may be a list
    if answer == gold.text:
        return "correct"
    if len(answer) > max(MAX_ANSWER, 2 * len(gold.text)):
        return "wrong"
    if _DENIAL.search(answer) and not _DENIAL.search(gold.text):
        return "wrong"
    try:
        return _judge_values(gold, without_emphasis(answer))
    except RecursionError:
        return "timeout"


def _judge_values(gold: _Gold, answer: str) -> Reason:
    option = _OPTION.match(answer)
    if gold.choice is not None:
        choice = _CHOICE.fullmatch(answer)
        if option and _SECOND_CHOICE.search(answer, option.end()):
            option = None
        letter = choice.group(1).upper() if choice else next(filter(None, option.groups())) if option else None
        if letter == gold.choice:
            return "correct"
    elif gold.is_number and option and answer[option.end() :].strip():
        answer = answer[option.end() :].strip()
    start_answer()
    try:
        values = readings(answer, gold.is_number)
    except TooBig:
        return "timeout"
    except (Unreadable, NotExact):
        return "wrong"
    reasons = [_compare(wanted, value) for wanted in gold.values for value in values]
    return next(reason for reason in _BEST_FIRST if reason in (*reasons, "wrong"))


def _compare(gold: Value, answer: Value) -> Reason:
    try:
        return "correct" if Comparison().same(gold, answer) else "wrong"
    except Ambiguous:
        return "ambiguous"
    except TooBig:
        return "timeout"
    except NotExact:
        return "wrong"
