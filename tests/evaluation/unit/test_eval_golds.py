"""Golds as they are released, and the best verdict over them."""

import pytest

from evaluation.problems.golds import (
    as_latex,
    exact_number,
    golds_of,
    judge,
    plain_integer,
    plain_number,
    tolerance_of,
)


def reason(answer, **problem):
    return judge({"gold": "42", "golds": None, "tolerance": None} | problem, f"\\boxed{{{answer}}}").reason


@pytest.mark.parametrize(
    ("released", "latex"),
    [
        ("4.5e33", "4.5 \\times 10^{33}"), ("1e-5", "1 \\times 10^{-5}"), ("3e+08", "3 \\times 10^{8}"),
        ("-1./3", "-\\frac{1}{3}"), ("np.arcsin(10/13)", "\\arcsin(\\frac{10}{13})"), ("np.sqrt(2)", "\\sqrt{2}"),
        ("np.exp(2)", "e^{2}"), ("np.log(3)", "\\ln(3)"), ("\\exp{a*t}", "e^{a t}"), ("42", "42"),
        ("e^{-2t}", "e^{-2t}"), ("a*b", "a*b"),
    ],
)  # fmt: skip
def test_program_notation(released, latex):
    assert as_latex(released) == latex


@pytest.mark.parametrize(
    ("released", "plain"),
    [
        ("070", "70"), ("27.0", "27"), ("336^\\circ", "336"), ("$5$", "5"), ("-3", "-3"), ("-0", "0"),
        ("1,000", "1000"), ("000", "0"), ("1.5", None), ("x", None), ("", None), ("1 2", None),
    ],
)  # fmt: skip
def test_released_integers(released, plain):
    assert plain_integer(released) == plain


def test_released_numbers():
    assert plain_number("-2.5e3") == "-2.5e3"
    assert plain_number("1/3") == "1/3"
    assert plain_number("1/0") is None
    assert plain_number("\\pi") is None


@pytest.mark.parametrize(
    ("released", "tolerance"), [("1e-1", 0.1), ("0.05", 0.05), (None, None), ("", None), (0, 0.0), (0.25, 0.25)]
)
def test_tolerance(released, tolerance):
    assert tolerance_of(released) == tolerance


@pytest.mark.parametrize("released", ["much", "-1", True, "1e-1,1e-2"])
def test_a_tolerance_that_is_none(released):
    with pytest.raises(ValueError, match="tolerance"):
        tolerance_of(released)


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        ("4.2", "correct"), ("4.1", "correct"), ("4.3", "correct"), ("4.30", "correct"), ("4.3\\%", "correct"),
        ("\\frac{43}{10}", "correct"), ("4.3\\text{ percent}", "correct"), ("4.30000000000000000000001", "wrong"),
        ("4.09999999999999999999999", "wrong"), ("4.0", "wrong"), ("-4.2", "wrong"), ("4.2 or 4.3", "ambiguous"),
        ("4.3" + " " * 500 + "9", "ambiguous"), ("\\frac{1}{0}", "wrong"),
    ],
)  # fmt: skip
def test_the_tolerance_is_exact_and_inclusive(answer, verdict):
    golds = golds_of("4.2", {"unit": "%"})
    assert reason(answer, gold="4.2", golds=golds, tolerance=0.1) == verdict


def test_without_a_tolerance_numbers_are_exact():
    assert reason("4.3", gold="4.2") == "wrong"


def test_what_a_row_says_beside_its_answer():
    meta = {"answer_latex": "4 \\times 10^{3}", "answer_as_released": "4.e3", "unit": None}
    assert golds_of("4e3", meta) == ("4e3", "4 \\times 10^{3}", "4.e3")


def test_values_of_equations():
    gold = "$\\angle B E A_{1}=90$,$\\angle A E B_{1}=90$"
    golds = golds_of(gold, {"unit": "^{\\circ}"}, multiple=True)
    assert golds == (gold, "90, 90", "90")
    assert reason("90^\\circ, 90^\\circ", gold=gold, golds=golds) == "correct"
    assert golds_of("$x=1$,$x=2$", {}, multiple=True) == ("$x=1$,$x=2$", "1, 2")
    assert golds_of("$1$,$2$", {}, multiple=True) == ("$1$,$2$",)


def test_the_best_verdict_counts():
    assert reason("5", golds=["42", "5"]) == "correct"
    assert reason("42 or 5", golds=["42", "7"]) == "ambiguous"
    assert judge({"gold": "42"}, "no idea").reason == "no_answer"
    assert judge({"gold": "42", "golds": []}, "Answer: 42").is_correct


@pytest.mark.parametrize(
    ("text", "value"), [("0.1", (1, 10)), ("\\dfrac{3}{4}", (3, 4)), ("$2$", (2, 1)), ("1/3", (1, 3))]
)
def test_exact_numbers(text, value):
    found = exact_number(text)
    assert found is not None
    assert (found.numerator, found.denominator) == value
