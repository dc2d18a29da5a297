"""The release's grader, by values worked out from its published source."""

import time

import pytest

from evaluation.grading.strict import form_of, normalize, strict_verdict


@pytest.mark.parametrize(
    ("answer", "normal"),
    [
        ("42", "42"), ("x = 5", "5"), ("1,234", "1234"), ("1,234.5", "1,234.5"), ("$\\frac12$", "\\frac{1}{2}"),
        ("\\sqrt2", "\\sqrt{2}"), ("12 inches", "12"), ("336^\\circ", "336"), ("\\text{Yes}", "Yes"),
        ("the value $7$ here", "7"), ("\\boxed{9}", "9"), ("3\\text{ and }4", "34"), ("  8 . ", "8."),
        ("a banana", "banana"), ("(1, 2)", "(1,2)"), ("5\\ \\text{m}", "5"), ("", ""), ("$", ""),
    ],
)  # fmt: skip
def test_normalisation(answer, normal):
    assert normalize(answer) == normal


@pytest.mark.parametrize(
    ("response", "verdict"),
    [
        ("Answer: 42", (True, "42")),
        ("ANSWER :\n\n  42", (True, "42")),
        ("Answer: 41\nAnswer: $42$", (True, "42")),
        ("Answer: 42\nAnswer: 41", (False, "41")),
        ("Answer: 42.", (False, "42.")),
        ("Answer: 42.0", (False, "42.0")),
        ("\\boxed{42}", (False, None)),
        ("Answer: \\boxed{42}", (True, "42")),
        ("Answer: 42" + " " * 301, (False, None)),
        ("Answer: 42" + " " * 290, (True, "42")),
        ("<think>Answer: 42</think>", (False, None)),
        ("<think>Answer: 41</think> Answer: 42", (True, "42")),
        ("", (False, None)),
        ("Answer:", (False, None)),
    ],
)
def test_the_answer_line(response, verdict):
    assert strict_verdict(response, ["42"]) == verdict


@pytest.mark.parametrize(
    ("response", "verdict"),
    [
        ("\\boxed{42}", (True, "42")),
        ("\\boxed{41} then \\boxed{42}", (True, "42")),
        ("\\boxed{42} then \\boxed{42", (False, None)),
        ("\\boxed{ 42}", (False, " 42")),
        ("\\boxed{42}" + "." * 91, (False, None)),
        ("Answer: 42", (False, None)),
        ("\\boxed{\\frac{1}{2}}", (False, "\\frac{1}{2}")),
    ],
)
def test_the_box(response, verdict):
    assert strict_verdict(response, ["42"], "boxed") == verdict


def test_any_gold_may_match():
    assert strict_verdict("Answer: 4.5 \\times 10^{33}", ["4.5e33", "4.5 \\times 10^{33}"])[0]


@pytest.mark.parametrize(
    ("style", "template", "form"),
    [
        ("dapo", "Answer: $Answer\n{problem}", "answer"), ("boxed", "", "boxed"), ("raw", "{problem}", "answer"),
        ("mine.txt", "{problem} in \\boxed{}", "boxed"), ("mine.txt", "Answer: \\boxed{} {problem}", "answer"),
    ],
)  # fmt: skip
def test_the_form_follows_the_prompt(style, template, form):
    assert form_of(style, template) == form


@pytest.mark.parametrize(
    "piece", ["Answer:", "Answer: ", "\\boxed{", "$", "</think>", "\n", " ", "{", "\\text{", "Answer\n"]
)
def test_a_million_characters_take_no_time(piece):
    start = time.process_time()
    for form in ("answer", "boxed"):
        strict_verdict(piece * 200_000, ["42"], form)
    assert time.process_time() - start < 2
