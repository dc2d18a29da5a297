"""What holds for every response and every number."""

from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from rpg_openrlhf.rewards.extraction import extract_answer
from rpg_openrlhf.rewards.grading import grade

integers = st.integers() | st.integers(min_value=-(10**60), max_value=10**60)
fractions = st.fractions(max_denominator=10**6)
pieces = st.sampled_from(
    [
        "Answer: ", "\\boxed{", "}", "{", "$", "\\frac", "\\sqrt", "^", "_", "!", "\n", "</think>", "42", "1/2",
        "\\pm", " or ", ",", "(", "]", "=",
    ]
)  # fmt: skip
soup = st.lists(pieces | st.text(max_size=4), max_size=30).map("".join)


@given(
    st.text() | soup,
    st.sampled_from(["42", "\\frac{1}{2}", "(1,2)", "\\sqrt{2}", "x+1", "1,2", "50%", "\\text{A}", "[0,1)"]),
)
@settings(max_examples=400, deadline=None)
def test_any_text_is_graded(response, gold):
    for text in (response, f"Answer: {response}", f"\\boxed{{{response}}}"):
        verdict = grade(text, gold)
        assert verdict.is_correct == (verdict.reason == "correct")
        assert (verdict.extracted is None) == (verdict.reason == "no_answer")


@given(soup)
def test_nothing_before_the_end_of_thinking_counts(thought):
    assert extract_answer(thought + "</think>") is None
    assert grade(thought + "</think>Answer: 42", "42").is_correct


@given(integers)
def test_a_number_equals_itself_in_every_form(n):
    forms = [
        f"{n}",
        f"${n}$",
        f"{n}.0",
        f"{n}.",
        f"**{n}**",
        f"\\({n}\\)",
        f"x = {n}",
        f"{n:,}",
        f"\\text{{{n}}}",
        f"{n} cm",
        f"{2 * n}/2",
    ]
    for form in forms:
        assert grade(f"Answer: {form}", str(n)).is_correct, form
        assert grade(f"\\boxed{{{form}}}", n).is_correct, form


@given(integers, st.integers(min_value=1) | st.integers(max_value=-1))
def test_another_number_is_wrong(n, difference):
    for form in ("{}", "{}.0", "x = {}", "\\frac{{{}}}{{1}}", "{} cm"):
        assert not grade("Answer: " + form.format(n + difference), str(n)).is_correct
    assert not grade(f"Answer: {n} or {n + difference}", str(n)).is_correct


@given(fractions)
def test_fractions_equal_themselves_in_every_form(value):
    p, q = value.numerator, value.denominator
    for form in (f"{p}/{q}", f"\\frac{{{p}}}{{{q}}}", f"\\dfrac{{{3 * p}}}{{{3 * q}}}", f"-\\frac{{{-p}}}{{{q}}}"):
        assert grade(f"Answer: ${form}$", f"\\frac{{{p}}}{{{q}}}").is_correct, form


@given(fractions, fractions)
def test_fractions_differ_exactly(a, b):
    right = grade(f"Answer: {a}", f"\\frac{{{b.numerator}}}{{{b.denominator}}}").is_correct
    assert right == (a == b)


@given(st.decimals(allow_nan=False, allow_infinity=False, places=6, min_value=-(10**12), max_value=10**12))
def test_decimals_are_exact(d):
    assert grade(f"Answer: {d}", str(Fraction(d))).is_correct
    assert not grade(f"Answer: {d}", str(Fraction(d) + Fraction(1, 10**9))).is_correct


@given(st.lists(st.integers(-99, 99), min_size=2, max_size=6, unique=True), st.randoms())
def test_order_matters_in_tuples_only(items, rng):
    shuffled = items[:]
    rng.shuffle(shuffled)

    def join(numbers):
        return ", ".join(map(str, numbers))

    assert grade(f"Answer: {join(shuffled)}", join(items)).is_correct
    assert grade(f"Answer: \\{{{join(shuffled)}\\}}", f"\\{{{join(items)}\\}}").is_correct
    assert grade(f"Answer: ({join(shuffled)})", f"({join(items)})").is_correct == (shuffled == items)
    assert not grade(f"Answer: {join(shuffled)}", str(items[0])).is_correct
