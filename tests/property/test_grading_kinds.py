r"""Kinds of faults that graders have: for any gold answer, wrapped or perturbed, the verdict that it must have."""

from fractions import Fraction

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rpg_openrlhf.rewards.grading import grade

numbers = st.one_of(
    st.integers(-(10**6), 10**6).map(str),
    st.decimals(-(10**4), 10**4, places=2, allow_nan=False).map(str),
    st.tuples(st.integers(-99, 99), st.integers(2, 99)).map(lambda pair: f"{pair[0]}/{pair[1]}"),
)
letters = st.sampled_from("abckmnpqrstuvwxyz")
fonts = st.sampled_from(
    [r"\text{%s}", r"\textbf{%s}", r"\mathrm{%s}", r"\mbox{%s}", r"\operatorname{%s}", r"\underline{%s}", r"\emph{%s}"]
)


def right(answer: str, gold: str) -> bool:
    line, box = grade(f"Answer: {answer}", gold), grade(f"So \\boxed{{{answer}}}.", gold)
    assert line.is_correct == box.is_correct, (line, box)
    return box.is_correct


def value(text: str) -> Fraction:
    return Fraction(text)


@given(numbers, numbers, fonts)
def test_a_value_in_words_is_read_as_a_value(gold, other, font):
    assert right(font % gold, gold)
    assert right(font % other, gold) == (value(other) == value(gold))
    assert right(font % f"{gold} cm", gold)
    assert not right(font % f"-{gold}" if gold[0] != "-" else font % gold[1:], gold) or value(gold) == 0


@given(st.lists(letters, min_size=3, max_size=3, unique=True), st.sampled_from("+-"), st.sampled_from("+-/"))
def test_letters_with_a_minus_are_a_formula(names, sign, other):
    a, b, c = names
    gold = f"{a} {sign} {b} - {c}"
    assert right(f"-{c} + {a} {sign} {b}", gold)
    assert not right(f"{a} {sign} {b} + {c}", gold)
    assert right(f"{a}{other}{b}-{c}", gold) == (other == sign)
    assert not right(f"{a}{sign}{b}{c}", gold)


@given(st.lists(st.integers(-99, 99), min_size=2, max_size=3, unique=True), st.data())
def test_boxes_joined_by_separators_are_one_list(items, data):
    joins = [", ", " \\quad ", " and ", " or ", ",\\;", " \\text{ or } ", "$ and $", "; ", "\n"]
    join = data.draw(st.sampled_from(joins))
    names = data.draw(st.sampled_from(["", "x=", "x = "]))
    response = "$" + join.join(f"{names}\\boxed{{{item}}}" for item in items) + "$"
    assert grade(response, ", ".join(map(str, items))).is_correct
    for item in items:
        assert not grade(response, str(item)).is_correct


@given(st.integers(1, 7), st.lists(st.integers(0, 7), min_size=1, max_size=6), st.integers(9, 36))
def test_bases_must_agree(first, rest, base):
    numeral = f"{first}{''.join(map(str, rest))}"
    for form in ("{}_{{{}}}", "{}_{{({})}}", "{}_{{ {} }}", "({})_{{{}}}"):
        assert right(form.format(numeral, 8), f"{numeral}_{{8}}")
        assert not right(form.format(numeral, base), f"{numeral}_{{8}}")
        assert not right(form.format(numeral, 8), numeral)


@given(st.integers(-99, 99), st.integers(-99, 99))
def test_named_components_belong_to_their_names(x, y):
    assume(x != y)
    for form in (
        "x={x}, y={y}",
        "y={y}, x={x}",
        "(x,y)=({x},{y})",
        "x={x} \\text{{ and }} y={y}",
        "(y, x) = ({y}, {x})",
    ):
        answer, swapped = form.format(x=x, y=y), form.format(x=y, y=x)
        assert right(answer, f"x={x}, y={y}")
        assert not right(swapped, f"x={x}, y={y}")
        if not form.startswith("(y"):
            assert right(answer, f"({x},{y})")
            assert not right(swapped, f"({x},{y})")


@given(numbers, numbers)
def test_equations_of_numbers_are_compared_side_by_side(left, other):
    assume(value(left) != value(other))
    assert not right(f"{other} = {other}", f"{left} = {left}")
    assert not right(f"{left} = {other}", left)
    assert not right(f"{other} = {left}", left)
    assert right(f"{left} = {left}", left)


@given(st.sampled_from(["sin", "cos", "tan"]), st.integers(2, 9))
def test_an_inverse_function_is_no_reciprocal(name, n):
    assert right(f"\\arc{name} \\frac{{1}}{{{n}}}", f"\\{name}^{{-1}} \\frac{{1}}{{{n}}}")
    assert not right(f"\\frac{{1}}{{\\{name} \\frac{{1}}{{{n}}}}}", f"\\{name}^{{-1}} \\frac{{1}}{{{n}}}")
    assert not right(f"\\frac{{1}}{{f({n})}}", f"f^{{-1}}({n})")


@given(
    numbers,
    st.sampled_from(
        [
            "tens",
            "tenths",
            "hundredths",
            "doubled",
            "halved",
            "tripled",
            "negative",
            "squared",
            "cubed",
            "dozen",
            "hundred",
            "thousand",
            "twice",
            "times",
            "fold",
            "reversed",
            "percent",
            "inverse",
            "reciprocal",
            "more",
            "less",
            "thirds",
            "quarters",
            "pairs",
            "base",
            "minus",
            "negated",
            "twentieths",
        ]
    ),
)
def test_words_that_change_a_number_are_no_unit(gold, word):
    assume(value(gold) != 0)
    assert not right(f"{gold} {word}", gold)
    assert not right(f"{gold}\\text{{ {word}}}", gold)


@given(numbers, st.sampled_from(["-", "2\\cdot ", "1", "\\pm ", "10^", "3 - "]))
def test_a_box_is_read_with_what_binds_it(gold, before):
    assume(value(gold) not in (0, 1, Fraction(3, 2)))
    assert not grade(f"So $x = {before}\\boxed{{{gold}}}$.", gold).is_correct
    assert grade(f"So $x = \\boxed{{{gold}}}$.", gold).is_correct
    assert grade(f"- $\\boxed{{{gold}}}$", gold).is_correct


@given(numbers, st.sampled_from(["^2", "0", "\\%", "_7", " \\times 10^3", " million", " or 77", "+1", ".5", "!$"]))
def test_a_box_is_read_with_what_follows(gold, after):
    assume(value(gold) not in (0, 1, 2, 77))
    assert not grade(f"So $\\boxed{{{gold}}}{after}", gold).is_correct


@given(st.lists(st.lists(st.integers(-9, 9), min_size=2, max_size=2), min_size=2, max_size=2), st.integers(2, 5))
def test_matrices_behind_names_and_factors(rows, factor):
    def matrix(kind, entries):
        return f"\\begin{{{kind}}}" + r" \\ ".join(" & ".join(map(str, row)) for row in entries) + f"\\end{{{kind}}}"

    gold = matrix("pmatrix", rows)
    for lead in ("A = ", "AB=", "\\displaystyle ", "\\;", "\\mathbf A="):
        assert right(lead + matrix("bmatrix", rows), gold)
    scaled = [[factor * entry for entry in row] for row in rows]
    assert right(f"{factor}" + gold, matrix("pmatrix", scaled))
    other = [rows[0], [rows[1][0], rows[1][1] + 1]]
    assert not right("A = " + matrix("pmatrix", other), gold)
    assert not right(matrix("vmatrix", rows), gold)


@given(numbers)
def test_a_sentence_around_one_formula(gold):
    for sentence in (
        "Final Answer: The final answer is ${}$. I hope it is correct.",
        "Answer: The final answer is {}. I hope it is correct.",
        "Answer: ${}$. I hope it is correct.",
        "Answer: The area of $\\triangle ABC$ is ${}$.",
        "Answer: Therefore ${}$ is the solution.",
        "<answer>Answer: {}</answer>",
        "Answer: {}<|im_end|>",
        "Answer: {}<turn|>",
        "Answer: {}<end_of_turn>\n",
    ):
        assert grade(sentence.format(gold), gold).is_correct, sentence
    assert not grade(f"Answer: ${gold}$. No, that is wrong.", gold).is_correct
    assert not grade(f"Answer: It is not ${gold}$.", gold).is_correct


@given(st.integers(-50, 50), st.integers(1, 9))
@settings(max_examples=50)
def test_inequalities_in_other_forms(bound, factor):
    gold = f"x < {bound}"
    for form in ("{b} > x", "-x > {m}", "{f}x < {fb}", "(-\\infty, {b})", "-{f}x > {mfb}", "x - {b} < 0"):
        text = form.format(b=bound, m=-bound, f=factor, fb=factor * bound, mfb=-factor * bound).replace("- -", "+ ")
        assert right(text, gold), text
    for form in ("x > {b}", "x \\le {b}", "-x < {m}", "y < {b}", "x < {c}"):
        assert not right(form.format(b=bound, m=-bound, c=bound + 1), gold)


@given(st.integers(2, 400), st.integers(2, 40), st.integers(1, 20))
def test_an_exact_value_with_its_rounded_size(top, bottom, error):
    assume(top % bottom)
    gold = f"\\frac{{{top}}}{{{bottom}}}"
    size = top / bottom
    for form in (
        "{g} \\approx {s:.3g}",
        "{g}\\;\\text{{(about }}{s:.3g}\\text{{ cards)}}",
        "{g} (approximately {s:.4g})",
    ):
        assert right(form.format(g=gold, s=size), gold)
        assert not right(form.format(g=gold, s=size * 1.2 + error), gold)
    assert not right(f"{size:.3f}", gold) or Fraction(f"{size:.3f}") == Fraction(top, bottom)


def test_sets_of_reals():
    for answer in ("(-\\infty,\\infty)", "\\mathbb{R}", "ℝ", "x \\in \\mathbb{R}", "\\text{all real numbers}"):
        assert right(answer, "\\mathbb{R}")
    for answer in ("\\mathbb{R}\\setminus\\{3\\}", "x \\ne 3", "x<3 \\text{ or } x>3", "(3,\\infty)\\cup(-\\infty,3)"):
        assert right(answer, "(-\\infty,3)\\cup(3,\\infty)")
    for answer in ("\\mathbb{R}", "\\mathbb{R}\\setminus\\{4\\}", "x = 3", "\\mathbb{Q}\\setminus\\{3\\}"):
        assert not right(answer, "(-\\infty,3)\\cup(3,\\infty)")


@given(
    st.sampled_from(["\\ln x", "\\sin x", "e^x", "\\sqrt{x+1}", "\\sqrt{2}", "\\pi", "\\frac{x}{x+1}"]),
    st.integers(5, 60),
)
def test_no_term_is_too_small_to_count(gold, digits):
    assert not right(f"{gold}+10^{{-{digits}}}", gold)
    assert not right(f"{gold}\\cdot(1+10^{{-{digits}}})", gold)
