r"""Strict verdicts in the prompt's answer form, as in the paper's release: verl/utils/reward_score/math_dapo.py.

`answer` is its `is_correct_minerva`: the last `Answer:` line in the last 300 characters must equal the gold answer
after the Minerva paper's normalisation (arXiv:2206.14858, appendix D.1). `boxed` is its `is_correct_strict_box`: the
last \boxed{} in the last 100 must equal it as text. The release has one gold answer per problem; here any may match.
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
    r"""Answer form of a prompt: `boxed` by style, or if the template has \boxed and no "Answer:"; else `answer`."""
    asks_box = "\\boxed" in template and "answer:" not in template.lower()
    return "boxed" if style == "boxed" or asks_box else "answer"


def strict_verdict(response: str, golds: Iterable[str], form: str = "answer") -> tuple[bool, str | None]:
    """Verdict and extracted answer: normalised for `answer`, as written for `boxed`, None if there is none.

    Only the text after the last </think> counts. Never raises. Apart from the search for </think>, its time does not
    depend on the response's length.
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
