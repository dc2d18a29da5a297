r"""The form that the prompt asks for, as the paper's release graded it: verl/utils/reward_score/math_dapo.py.

`answer`: its `is_correct_minerva`, the last `Answer:` line within the last 300 characters, equal as text after the
normalisation of the Minerva paper (arXiv:2206.14858, appendix D.1). `boxed`: its `is_correct_strict_box`, the last
\boxed{} within the last 100, equal as text. The release has one gold answer a problem; here any of them may match.
"""

import re
from collections.abc import Iterable
from functools import lru_cache

TAIL = 300
BOX_TAIL = 100

_THINK_END = "</think>"
_ANSWER = re.compile(r"(?i)Answer\s*:\s*([^\n]+)")
_BOX = "\\boxed{"
_REPLACED = (
    ("an ", ""), ("a ", ""), (".$", "$"), ("\\$", ""), ("\\ ", ""), (" ", ""), ("mbox", "text"),
    (",\\text{and}", ","), ("\\text{and}", ","), ("\\text{m}", "\\text{}"),
)  # fmt: skip
_UNITS = """
    square ways integers dollars mph inches hours km units \\ldots sue points feet minutes digits cents degrees cm gm
    pounds meters meals edges students childrentickets multiples
"""
_REMOVED = (
    *_UNITS.split(), "\\text{s}", "\\text{.}", "\\text{\ns}", "\\text{}^2", "\\text{}^3", "\\text{\n}", "\\text{}",
    "\\mathrm{th}", "^\\circ", "^{\\circ}", "\\;", ",\\!", "{,}", '"', "\\dots",
)  # fmt: skip
_REWRITTEN = (
    (r"(.*?)(\$)(.*?)(\$)(.*)", r"$\3$"),
    (r"(\\text\{)(.*?)(\})", r"\2"),
    (r"(\\textbf\{)(.*?)(\})", r"\2"),
    (r"(\\overline\{)(.*?)(\})", r"\2"),
    (r"(\\boxed\{)(.*)(\})", r"\2"),
    (r"(frac)([^{])(.)", r"frac{\2}{\3}"),
    (r"(sqrt)([^{])", r"sqrt{\2}"),
)


def normalize(answer: str) -> str:
    """`normalize_final_answer` of the release, oddities included: "a banana" is "banana", "x = 5" is "5"."""
    answer = answer.rpartition("=")[2]
    for old, new in _REPLACED:
        answer = answer.replace(old, new)
    for text in _REMOVED:
        answer = answer.replace(text, "")
    for pattern, replacement in _REWRITTEN:
        answer = re.sub(pattern, replacement, answer)
    answer = answer.replace("$", "")
    if answer.replace(",", "").isdigit():
        answer = answer.replace(",", "")
    return answer.strip()


_normal_gold = lru_cache(maxsize=8192)(normalize)


def form_of(style: str, template: str = "") -> str:
    r"""The form a prompt asks for: `boxed` where its words name \boxed and no "Answer:", else `answer`."""
    asks_box = "\\boxed" in template and "answer:" not in template.lower()
    return "boxed" if style == "boxed" or asks_box else "answer"


def strict_verdict(response: str, golds: Iterable[str], form: str = "answer") -> tuple[bool, str | None]:
    """Right or not, and what was read: normalised for `answer`, as written for `boxed`, None without a marker.

    Of a thinking model only what follows the last </think> counts. Never raises, and its time does not grow with
    the response beyond one search.
    """
    tail = response.rpartition(_THINK_END)[2][-TAIL:]
    if form == "boxed":
        boxed = _last_box(tail[-BOX_TAIL:])
        return boxed is not None and any(boxed == gold for gold in golds), boxed
    answers = _ANSWER.findall(tail)
    if not answers:
        return False, None
    answer = normalize(answers[-1])
    return any(answer == _normal_gold(gold) for gold in golds), answer


def _last_box(text: str) -> str | None:
    start = text.rfind(_BOX)
    if start < 0:
        return None
    depth = 0
    for end in range(start, len(text)):
        depth += (text[end] == "{") - (text[end] == "}")
        if depth == 0 and text[end] == "}":
            return text[start + len(_BOX) : end]
    return None
