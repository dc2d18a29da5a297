r"""Answers graded by hand.

Each is tried on an `Answer:` line and, where its braces close, in a \\boxed{}.
"""

import json
import sys
from pathlib import Path

import pytest

from rpg_openrlhf.rewards.grading import grade

TABLE = Path(__file__).with_name("graded_answers.txt")


def _cases():
    """A line that is not indented is a gold answer; "+" lines hold right answers, "-" lines wrong ones."""
    group = gold = ""
    for line in TABLE.read_text("utf-8").splitlines():
        if line.startswith("# "):
            group = line[2:]
        elif line.startswith("  "):
            for answer in line[4:].split(" ;; "):
                yield pytest.param(gold, answer, line[2] == "+", id=f"{group}: {gold[:24]} {line[2]} {answer[:24]}")
        else:
            gold = line


@pytest.mark.parametrize(("gold", "answer", "right"), list(_cases()))
def test_answer(gold, answer, right):
    line = grade(f"Some work: 7 + 8 = 15.\nAnswer: {answer}", gold)
    assert line.is_correct is right, line
    if answer.count("{") == answer.count("}") and not answer.endswith("\\"):
        box = grade(f"Some work: 7 + 8 = 15. So it is $\\boxed{{{answer}}}$.", gold)
        assert box.is_correct is right, box


@pytest.mark.parametrize(
    "answer",
    ["42 or 41", r"\pm 42", "x=42, x=41", "42, 41", "42 41", "41 = 42", "{41, 42}", r"\{41, 42\}", "42 (or 41)"],
)
def test_two_candidates_are_ambiguous(answer):
    assert grade(f"Answer: {answer}", "42").reason == "ambiguous"


def test_integers_of_any_length_are_compared_exactly():
    gold = "9" * 8999 + "8"
    before = sys.get_int_max_str_digits()
    for answer in (gold, "00" + gold, gold + ".0", f"${gold}$", f"x = {gold}"):
        assert grade(f"Answer: {answer}", gold).is_correct
    for answer in (gold[:-1] + "9", gold[:-1], "-" + gold, "1e9000"):
        assert not grade(f"Answer: {answer}", gold).is_correct
    assert sys.get_int_max_str_digits() == before


def _rows(name):
    rows = map(json.loads, Path(__file__).with_name(name).read_text("utf-8").splitlines())
    return [pytest.param(row, id=f"{row['gold'][:30]} {row['response'][:40]}") for row in rows]


@pytest.mark.parametrize("row", _rows("graded_responses.jsonl"))
def test_response_that_was_once_graded_wrongly(row):
    verdict = grade(row["response"], row["gold"])
    assert verdict.is_correct is row["right"], (row["kind"], verdict)


@pytest.mark.parametrize("row", _rows("math_verify_cases.jsonl"))
def test_case_of_math_verify(row):
    """The test cases of huggingface/Math-Verify (MIT), short ones; a "policy" names why its verdict is not ours."""
    assert grade(row["response"], row["gold"]).is_correct is row["right"]


ALTERED = [  # around a 42 that is not the answer
    *("minus $42$", "less than $42$", "half of $42$", "twice $42$", "never $42$", "anything except $42$"),
    *(f"The answer is $42$ {word}" for word in ("percent", "thousand", "squared")),
    r"42 \text{ cm}\end{pmatrix}",
    *(r"42 \end{x} + 1000", r"$42 \end{aligned} \times 10^3$", "41 x) or (y = 42", "n=41),(m=42"),
    *("The answer is =", r"The value is approximately \approx", "x is:="),
]
BOXES = [
    *(r"$\frac{\boxed{42}}{2}$", r"$\log{\boxed{42}}$", r"$\binom{\boxed{42}}{2}$", r"$\cancel{\boxed{42}}$"),
    *(r"minus \boxed{42}", r"twice \boxed{42}", r"less than \boxed{42}", r"$\boxed{42}$ squared"),
    *(r"\boxed{41, \boxed{42}}", r"\boxed{41 \% \boxed{42}}", r"\boxed{41 \text{ and } \boxed{42}}"),
    *(r"\boxed{41} or possibly \boxed{42}.", r"\boxed{42 \end{x}, 41, 43, 44}", r"\boxed{x \text{ is} =}"),
]


@pytest.mark.parametrize("response", [*(f"Answer: {line}" for line in ALTERED), *BOXES])
def test_what_stands_around_a_number_is_read(response):
    assert not grade(response, "42").is_correct


ORDINARY = {  # words of other sentences, which change nothing
    "6": [
        *("There are $6$ pairs.", "The two trains meet after $6$ hours.", "Therefore, $6$ is the correct answer."),
        *("The square has area $6$", "He never stops, so the answer is $6$"),
    ],
    r"\frac{1}{2}": [r"The probability is $\frac{1}{2}$ that the first player wins."],
}


@pytest.mark.parametrize(
    ("response", "gold"), [(f"Answer: {line}", gold) for gold, lines in ORDINARY.items() for line in lines]
)
def test_words_that_are_not_beside_the_formula_change_nothing(response, gold):
    assert grade(response, gold).is_correct


@pytest.mark.parametrize(
    "response",
    [
        *(r"n must be at least $\boxed{42}$", r"at most \boxed{42}", r"no less than $\boxed{42}$"),
        *(r"The area is $\boxed{42}$ squared inches", r"$f(x) = \boxed{42}$"),
    ],
)
def test_a_box_after_ordinary_words(response):
    assert grade(response, "42").is_correct


@pytest.mark.parametrize("text", [r"f(x)=x \text{, for all } x", r"f(x)=x \mbox{ for all } x"])
def test_for_all_inside_a_text(text):
    assert grade(rf"\boxed{{{text}}}", text).is_correct


@pytest.mark.parametrize(
    ("response", "gold"),
    [
        *(("Answer: 9.6 Å", "9.6"), (r"Answer: $4100\,\AA$", "4100"), ("Answer: 50 μm", "50")),
        *((r"Answer: $50\ \mu\text{m}$", "50"), ("Answer: $f(x)=2x$ for all $x$", "f(x)=2x")),
        *((r"\boxed{f(x) = 2x \text{ for all real } x}", "f(x)=2x"), ("Answer: The final answer is $42$.", "42")),
        *(("Answer: It is exactly $42$", "42"), ("Answer: Here is a zero: $0$", "0")),
        (r"Answer: $f(n)=n$ for all $n \in \mathbb{N}$.", "f(n)=n"),
    ],
)
def test_ordinary_words_and_units_change_nothing(response, gold):
    assert grade(response, gold).is_correct


def test_exact_work_counts_as_work():
    response = "Answer: 42" + r"\pm0" * 4 + r"+0\binom{24000}{12000}" * 30
    assert grade(response, "42").reason == "timeout"


def test_a_gold_of_no_value_raises_nothing():
    assert not grade("Answer: 42", "is =").is_correct
