"""Gold answers as benchmarks release them, and the best verdict of a response over all of them."""

import re
from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Any

from rpg_openrlhf.rewards.grading import Verdict, grade

MAX_CHARACTERS = 400  # of a number compared within a tolerance

_RANK = ("no_answer", "wrong", "ambiguous", "timeout", "correct")
_DEGREES = re.compile(r"\^\s*(?:\\circ|\{\s*\\circ\s*\})")
_INTEGER = re.compile(r"([+-]?)0*(\d+)(?:\.0*)?")
_NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,3}|/\d+)?")
_LATEX_FRACTION = re.compile(r"([+-]?)\\[dt]?frac\s*\{\s*(\d+)\s*\}\s*\{\s*(\d+)\s*\}")
_UNIT = re.compile(r"(?:\s|\\[ ,;~]|~)*(?:\\?%|\\(?:text|mathrm)\s*\{[^{}]*\})$")
_SCIENTIFIC = re.compile(r"([+-]?\d+(?:\.\d+)?)e([+-]?)0*(\d+)")
_DOT_QUOTIENT = re.compile(r"([+-]?)(\d+)\.0*/(\d+)(?:\.0*)?")
_FUNCTION = re.compile(r"np\.(arcsin|arccos|arctan|sin|cos|tan|sqrt|exp|log)\(([^()]*)\)")
_QUOTIENT = re.compile(r"(\d+)/(\d+)")


def plain_integer(text: str) -> str | None:
    r"""The digits of a released integer: "070", "27.0", "$5$" and "336^\circ" are 70, 27, 5 and 336."""
    match = _INTEGER.fullmatch(_DEGREES.sub("", text.replace("$", "")).replace(",", "").strip())
    if match is None:
        return None
    return ("-" if match.group(1) == "-" and match.group(2) != "0" else "") + match.group(2)


def plain_number(text: str) -> str | None:
    """A decimal, a quotient a/b or scientific notation as it stands; None for anything else."""
    text = text.strip("$ ").replace(",", "")
    return text if _NUMBER.fullmatch(text) and exact_number(text) is not None else None


def exact_number(text: str) -> Fraction | None:
    """The value of a decimal, quotient or plain LaTeX fraction, without a unit; None where there is none."""
    if len(text) > MAX_CHARACTERS:
        return None
    text = _UNIT.sub("", _DEGREES.sub("", text.strip("$ ").rstrip("."))).strip("$ ").replace(",", "")
    fraction = _LATEX_FRACTION.fullmatch(text)
    if fraction:
        text = "".join(fraction.group(1, 2)) + "/" + fraction.group(3)
    if not _NUMBER.fullmatch(text):
        return None
    numerator, _, denominator = text.partition("/")
    if denominator and not denominator.strip("0"):
        return None
    return Fraction(numerator) / Fraction(denominator or "1")


def tolerance_of(released: Any) -> float | None:
    """The absolute tolerance of a problem, OlympiadBench's `error` field ("1e-1"). ValueError if it is no number."""
    if released is None or released == "":
        return None
    value = None if isinstance(released, bool) else exact_number(str(released))
    if value is None or value < 0:
        raise ValueError(f"the tolerance {released!r} is not a number of 0 or more")
    return float(value)


def golds_of(
    gold: str, meta: Mapping[str, Any], multiple: bool = False, further: Iterable[str] = ()
) -> tuple[str, ...]:
    """Acceptable forms of the gold answer without duplicates, the gold itself first.

    `meta` may hold further fields of the release: answer_latex, answer_as_released, unit.
    """
    golds = [gold, *further]
    golds += [meta[key] for key in ("answer_latex", "answer_as_released") if isinstance(meta.get(key), str)]
    golds.append(as_latex(gold))
    if isinstance(meta.get("unit"), str) and meta["unit"].strip() in ("%", r"\%"):
        golds.append(gold.strip("$") + r"\%")  # "determine r where r % ..." is answered with and without the sign
    if multiple:
        golds += _right_sides(gold)
    return tuple(dict.fromkeys(text for text in golds if text))


def _right_sides(gold: str) -> list[str]:
    r"""Values of `$\angle A=90$,$\angle B=90$`, and the single value if they are all equal, as further answers."""
    parts = re.split(r"\$\s*,\s*\$", gold.strip().strip("$"))
    sides = [part.partition("=")[2].strip() for part in parts]
    if len(parts) < 2 or not all(part.count("=") == 1 for part in parts) or not all(sides):
        return []
    return [", ".join(sides), *([sides[0]] if len(set(sides)) == 1 else [])]


def as_latex(gold: str) -> str:
    r"""Minerva's program notation as LaTeX: `4.5e33`, `-1./3`, `np.arcsin(10/13)`, `\exp{a*t}`; else unchanged."""
    if match := _SCIENTIFIC.fullmatch(gold):
        number, sign, exponent = match.groups()
        return rf"{number} \times 10^{{{sign.replace('+', '')}{exponent}}}"
    if match := _DOT_QUOTIENT.fullmatch(gold):
        return rf"{match.group(1)}\frac{{{match.group(2)}}}{{{match.group(3)}}}"
    text = _FUNCTION.sub(lambda match: _function(match.group(1), match.group(2)), gold)
    if r"\exp{" in text or text != gold:
        text = re.sub(r"\\exp\{([^{}]*)\}", r"e^{\1}", text).replace("*", " ")
    return text


def _function(name: str, argument: str) -> str:
    argument = _QUOTIENT.sub(r"\\frac{\1}{\2}", argument)
    forms = {"sqrt": rf"\sqrt{{{argument}}}", "exp": f"e^{{{argument}}}", "log": rf"\ln({argument})"}
    return forms.get(name, rf"\{name}({argument})")


def judge(problem: Mapping[str, Any], response: str) -> Verdict:
    """Best verdict over `golds`. With a `tolerance`, |answer - gold| <= tolerance (computed exactly) is also right.

    problem: a row of problems.jsonl. Never raises for any response.
    """
    best: Verdict | None = None
    for gold in problem.get("golds") or (problem["gold"],):
        verdict = grade(response, gold)
        if best is None or _RANK.index(verdict.reason) > _RANK.index(best.reason):
            best = verdict
        if verdict.is_correct:
            break
    assert best is not None
    tolerance = problem.get("tolerance")
    if best.is_correct or tolerance is None or best.extracted is None:
        return best
    answer, gold = exact_number(best.extracted), exact_number(problem["gold"])
    # The shortest decimal that is this float: 0.1 means a tenth.
    if answer is not None and gold is not None and abs(answer - gold) <= Fraction(repr(float(tolerance))):
        return Verdict(True, best.extracted, "correct")
    return best
