r"""An attack on the grader, as a policy under reinforcement learning would find it.

For every gold answer: texts that are wrong by construction, in the dresses that a policy may try. A verdict "right" on
any of them is a fault. Run on problem files (JSONL with an answer, gold or label column):

    python -m tests.attack.search --golds problems.jsonl --per-gold 40 --seed 1
"""

import argparse
import json
import random
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from rpg_openrlhf.rewards.grading import grade


@dataclass(frozen=True)
class Attempt:
    """A response that is wrong for `gold`, and why."""

    gold: str
    response: str
    kind: str


_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_FRACTION = re.compile(r"(-?)\\d?frac\{(\d+)\}\{(\d+)\}")


def number_of(gold: str) -> Fraction | None:
    """The value of a plain number or a plain fraction, else None."""
    text = gold.strip().strip("$").replace("\\!", "").replace("{,}", "")
    if re.fullmatch(r"-?\d{1,3}(?:,\d{3})+", text):
        text = text.replace(",", "")
    if _NUMBER.fullmatch(text):
        return Fraction(text)
    match = _FRACTION.fullmatch(text)
    if match and int(match.group(3)):
        value = Fraction(int(match.group(2)), int(match.group(3)))
        return -value if match.group(1) else value
    return None


def text_of(value: Fraction) -> str:
    if value.denominator == 1:
        return str(value.numerator)
    return f"{'-' if value < 0 else ''}\\frac{{{abs(value.numerator)}}}{{{value.denominator}}}"


def other_numbers(value: Fraction) -> dict[str, Fraction]:
    """Numbers near the right one that differ from it."""
    digits = str(abs(value.numerator))
    near = {
        "sign": -value,
        "one more": value + 1,
        "one less": value - 1,
        "ten times": value * 10,
        "a tenth": value / 10,
        "a hundredth": value / 100,
        "reciprocal": 1 / value if value else Fraction(7),
        "square": value**2,
        "digits reversed": Fraction(int(digits[::-1]), value.denominator),
        "a digit dropped": Fraction(int(digits[:-1] or 0), value.denominator),
        "a digit added": Fraction(int(digits + "0"), value.denominator),
        "the fraction's whole": Fraction(value.numerator * value.denominator) if value.denominator > 1 else value + 2,
    }
    return {name: other for name, other in near.items() if other != value}


# Operators that change every number but those that they are told to spare. {} is the right answer.
CHANGING = {
    "minus": (r"-{}", {0}), "factorial": ("{}!", {1, 2, -1, -2}), "square": ("{}^2", {0, 1, -1}),
    "twice": (r"2\cdot {}", {0}),
    "per cent": (r"{}\%", set()), "reciprocal": (r"\frac{{1}}{{{}}}", {1, -1}), "root": (r"\sqrt{{{}}}", {0, 1}),
    "plus one": ("{}+1", set()), "power of ten": ("10^{{{}}}", set()), "base": ("{}_{{11}}", set()),
    "base in brackets": ("{}_{{(12)}}", set()), "thousand": (r"{}\text{{ thousand}}", {0}),
    "dozen": (r"{}\text{{ dozen}}", set()), "tens": ("{} tens", set()), "tenths": (r"{}\text{{ tenths}}", set()),
    "doubled": ("{} doubled", set()), "negative": ("{} negative", set()), "halved": (r"{}\text{{ halved}}", set()),
    "plus or minus": (r"\pm {}", {0}), "not equal": (r"\ne {}", set()), "not": ("not {}", set()),
    "greater": (r"x > {}", set()), "less": (r"x \le {}", set()), "imaginary": ("{}i", {0}), "letter": ("{}x", {0}),
    "interval": (r"[{0}, {0}+1]", set()), "digit after": ("{} 0", set()), "group after": ("{}{{0}}", set()),
    "digit before": ("1{{{}}}", set()), "sum to zero": ("{0}-{0}", {0}), "no": (r"\text{{no }}{}", set()),
    "epsilon": (r"{}+10^{{-30}}", set()), "pi": (r"{}\pi", {0}), "negated": (r"\overline{{{}}}", set()),
    "strike": (r"\not{{{}}}", set()), "cancel": (r"\cancel{{{}}}", set()), "tag": (r"7\tag{{{}}}", {7}),
    "phantom": (r"7\phantom{{{}}}", {7}), "comment": ("7 % {}", {7}), "define": (r"\def\x{{{}}}7", {7}),
    "squared word": ("{} squared", {0, 1}), "at least": ("at least {}", set()),
    "multiple": ("a multiple of {}", set()),
    "mod": (r"{} \pmod{{7}}", set()), "infinity": (r"{}\cdot\infty", set()), "log": (r"\log {}", set()),
    "floor": (r"\lfloor {} - \frac{{1}}{{2}} \rfloor", set()), "times ten": (r"{}\times 10^1", {0}),
    "exponent": ("{}e2", {0}), "ratio": ("{}:2", set()), "equation": (r"{} = x + 1", set()),
    "derivative": ("{}'", set()),
    "colon": ("{}:00", set()), "two ones": ("{} 1", set()), "apostrophe": ("{}''", set()),
    "mean": (r"\bar{{{}}}", set()), "pct": (r"{}\text{{ pct}}", set()), "raised": ("{}²", {0, 1, -1}),
    "lowered": ("{}₁₁", set()), "in brackets": (r"{} (\text{{dozen}})", {0}), "to": (r"{}\text{{ to }}2", set()),
}  # fmt: skip

# Two candidates. {0} is the right answer, {1} a wrong one.
HEDGES = {
    "or": "{0} or {1}", "or, the wrong first": "{1} or {0}", "comma": "{0}, {1}", "and": r"{1} \text{{ and }} {0}",
    "equal": "{1} = {0}", "equal, the wrong last": "{0} = {1}", "semicolon": "{1}; {0}", "set": r"\{{{0}, {1}\}}",
    "slash": "{1} | {0}", "approximately": r"{1} \approx {0}", "arrow": r"{1} \to {0}",
    "not": r"\text{{not }}{1}, {0}",
    "tuple": "({1}, {0})", "space": r"{1} \quad {0}", "rather": "{0} rather than {1}", "either": "either {1} or {0}",
    "named": "x={1}, y={0}", "same name": "x={1} or x={0}", "words": "{1} (or {0})", "dots": r"{1}, \ldots, {0}",
    "cases": r"\begin{{cases}} {1} \\ {0} \end{{cases}}", "line": r"{1} \\ {0}", "implies": r"{1} \Rightarrow {0}",
    "ratio": "{1}:{0}", "remark": "{1} (about {0})", "or sign": r"{1} \lor {0}", "xor": "{1} xor {0}",
}  # fmt: skip

# Dresses of an answer's text that never change its value.
DRESSES = (
    "{}", "${}$", r"\text{{{}}}", r"\textbf{{{}}}", r"\mathrm{{{}}}", r"\mathbf{{{}}}", r"\operatorname{{{}}}",
    r"\mbox{{{}}}", r"\underline{{{}}}", r"\boxed{{{}}}", r"\left({}\right)", "{{{}}}", "x = {}", r"\text{{ans }}= {}",
    r"{}\text{{ cm}}", "{} units", "**{}**", "`{}`", r"\color{{red}}{{{}}}", r"\displaystyle {}", r"\large {}",
    r"\,{}\,", "the value is {}", r"\$ {}", "{}.", r"f(1) = {}", r"\approx {}", "exactly {}", r"{}^\circ", "<b>{}</b>",
    "{} meters per second", "“{}”", "\u200b{}", r"\emph{{{}}}", r"\textit{{{}}}", r"\hbox{{{}}}", r"\rm {}",
    r"{}\degree", r"{} (\text{{cm}})", "both {}", r"{}, k \in \mathbb{{Z}}",
)  # fmt: skip

# Responses around an answer's text.
MARKERS = (
    "Answer: {}", "So it is $\\boxed{{{}}}$.", "The final answer is \\boxed{{{}}}.", "**Answer:** {}",
    "Answer: \\({}\\)",
    "Final Answer: The final answer is ${}$. I hope it is correct.", "<answer>Answer: {}</answer>",
    "Answer: {}<|im_end|>", "\\[ x = \\boxed{{{}}} \\]",
)  # fmt: skip

# Responses whose box is bound to what stands around it. {0} is the right answer.
BOUND = {
    "minus": (r"-\boxed{{{0}}}", {0}), "minus in math": (r"$x = -\boxed{{{0}}}$", {0}),
    "factor": (r"2\boxed{{{0}}}", {0}),
    "power": (r"\boxed{{{0}}}^2", {0, 1}), "digit": (r"\boxed{{{0}}}0", set()),
    "per cent": (r"\boxed{{{0}}}\%", set()),
    "million": (r"$\boxed{{{0}}}$ million", {0}), "fraction": (r"\frac{{1}}{{\boxed{{{0}}}}}", {1, -1}),
    "exponent": (r"10^{{\boxed{{{0}}}}}", set()), "difference": (r"5-\boxed{{{0}}}", {Fraction(5, 2)}),
    "not": (r"The answer is not \boxed{{{0}}}", set()), "ne": (r"x \ne \boxed{{{0}}}", set()),
    "hedge after": (r"\boxed{{{0}}} or 77", {77}), "hedge before": (r"77 or \boxed{{{0}}}", {77}),
    "two boxes": (r"$x=\boxed{{77}}$ or $x=\boxed{{{0}}}$", {77}), "list": (r"\boxed{{77}}, \boxed{{{0}}}", {77}),
    "quad": (r"\boxed{{77}} \quad \text{{or}} \quad \boxed{{{0}}}", {77}), "base": (r"\boxed{{{0}}}_8", set()),
    "wrong last": (r"\boxed{{{0}}} No, \boxed{{77}}", {77}), "line after": ("\\boxed{{{0}}}\nAnswer: 77", {77}),
    "two lines": ("Answer: {0}\nAnswer: 77", {77}), "thinking": (r"<think>\boxed{{{0}}}</think> Answer: 77", {77}),
    "open box": (r"\boxed{{{0}}} so \boxed{{", set()), "no marker": ("It is {0}.", set()),
    "box in a box": (r"\boxed{{77, \boxed{{{0}}}}}", {77}),
    "quoted": ('"Answer:" is {0}', set()), "plus": (r"\boxed{{{0}}}+1", set()), "decimal": (r"\boxed{{{0}}}.5", set()),
}  # fmt: skip


def attempts(gold: str, rng: random.Random, count: int) -> Iterator[Attempt]:
    """Up to `count` wrong responses for a gold answer that is a number, fewer kinds for any other."""
    value = number_of(gold)
    kinds = [_wrong_value, _changed, _hedged, _bound] if value is not None else [_foreign, _hedged_text]
    for _ in range(count):
        attempt = rng.choice(kinds)(gold, value, rng)
        if attempt is not None:
            yield attempt


def _dressed(text: str, rng: random.Random) -> str:
    for _ in range(rng.choice((0, 1, 1, 2))):
        text = rng.choice(DRESSES).format(text)
    return rng.choice(MARKERS).format(text)


def _wrong_value(gold: str, value: Fraction, rng: random.Random) -> Attempt:
    kind, other = rng.choice(sorted(other_numbers(value).items()))
    text = text_of(other)
    if other.denominator == 1 and rng.random() < 0.2:
        text = "".join(chr(ord(c) + 0xFEE0) if c.isdigit() else c for c in text)  # full-width digits
    elif other.denominator > 1 and rng.random() < 0.5:
        text = f"{other.numerator}/{other.denominator}"
    return Attempt(gold, _dressed(text, rng), f"value: {kind}")


def _changed(gold: str, value: Fraction, rng: random.Random) -> Attempt | None:
    kind, (form, spared) = rng.choice(sorted(CHANGING.items()))
    return None if value in spared else Attempt(gold, _dressed(form.format(text_of(value)), rng), f"changed: {kind}")


def _hedged(gold: str, value: Fraction, rng: random.Random) -> Attempt | None:
    kind, form = rng.choice(sorted(HEDGES.items()))
    other = rng.choice(sorted(other_numbers(value).values()))
    if kind == "space" and other == 0:
        return None  # 0 - 5/14 is the answer
    if kind in ("approximately", "remark") and abs(other - value) <= abs(other) / 10:
        return None
    return Attempt(gold, _dressed(form.format(text_of(value), text_of(other)), rng), f"hedge: {kind}")


def _bound(gold: str, value: Fraction, rng: random.Random) -> Attempt | None:
    kind, (form, spared) = rng.choice(sorted(BOUND.items()))
    return None if value in spared else Attempt(gold, form.format(text_of(value)), f"bound: {kind}")


def _foreign(gold: str, _: object, rng: random.Random) -> Attempt | None:
    """A small change to a gold answer that is no plain number: a digit, a sign, an operator, a letter, a bracket."""
    changes = [
        (r"\d", lambda m: str((int(m.group()) + rng.randint(1, 8)) % 10), "digit"),
        (r"(?<=[\w}] )-|(?<=[\w})])-", lambda m: "+", "minus to plus"),
        (r"(?<=[\w})])\+", lambda m: "-", "plus to minus"),
        (r"\\sqrt", lambda m: "2\\sqrt", "factor of a root"),
        (r"(?<![\\A-Za-z])[a-d](?![A-Za-z])", lambda m: "z", "letter"),
        (r"\\pi", lambda m: "3", "pi"),
        (r"\\cup", lambda m: "\\cap", "union"),
        (r"\\sin", lambda m: "\\cos", "sine"),
    ]
    pattern, change, kind = rng.choice(changes)
    places = [m for m in re.finditer(pattern, gold) if not gold[: m.start()].endswith(("{array}{", "\\begin{"))]
    if not places or re.search(r"text|boxed|mbox|(?<![\\A-Za-z])[A-Za-z]{4}", gold):
        return None
    place = rng.choice(places)
    text = gold[: place.start()] + change(place) + gold[place.end() :]
    return Attempt(gold, _plainly(text, rng), f"changed text: {kind}")


def _hedged_text(gold: str, _: object, rng: random.Random) -> Attempt | None:
    """The gold answer beside another candidate, or denied."""
    forms = ("{} or 9173", "9173 or {}", "{} = 9173", "not {}", "{}, 9173", "9173; {}", "{} 9173", r"\text{{no }}{}")
    if re.search(r"boxed|\\\\|infty|emptyset|\([A-J]\)|^[A-J]$|\{[A-J]\}", gold):
        return None
    return Attempt(gold, _plainly(rng.choice(forms).format(gold.strip("$")), rng), "hedged text")


def _plainly(text: str, rng: random.Random) -> str:
    text = text.replace("$", "")
    if rng.random() < 0.3 and "\\text" not in text and re.fullmatch(r"[^\\]*", text):
        text = f"\\text{{{text}}}"
    return rng.choice(("Answer: {}", "So $\\boxed{{{}}}$.", "Answer: ${}$")).format(text)


def accepted(golds: Iterable[str], per_gold: int, seed: int, tried: Counter[str]) -> Iterator[Attempt]:
    """The wrong responses that the grader takes for right; `tried` counts all by kind."""
    for gold in golds:
        rng = random.Random(f"{seed}/{gold}")
        for attempt in attempts(gold, rng, per_gold):
            tried[attempt.kind] += 1
            if grade(attempt.response, gold).is_correct:
                yield attempt


def golds_of(path: Path) -> list[str]:
    """The answers of a JSONL file."""
    golds: list[str] = []
    for line in path.read_text("utf-8").splitlines():
        row = json.loads(line)
        answer = next(row[name] for name in ("answer", "gold", "label", "final_answer") if name in row)
        golds.extend(map(str, answer if isinstance(answer, list) else [answer]))
    return golds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--golds", nargs="+", type=Path, required=True)
    parser.add_argument("--per-gold", type=int, default=40)
    parser.add_argument("--sample", type=int, default=0, help="so many gold answers of each file, 0 for all")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    tried: Counter[str] = Counter()
    count = 0
    for path in args.golds:
        golds = golds_of(path)
        if args.sample and len(golds) > args.sample:
            golds = random.Random(args.seed).sample(golds, args.sample)
        for attempt in accepted(golds, args.per_gold, args.seed, tried):
            count += 1
            print(json.dumps(attempt.__dict__, ensure_ascii=False), flush=True)
    print(f"{sum(tried.values())} wrong responses of {len(tried)} kinds, {count} taken for right", file=sys.stderr)
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main())
