"""Whatever a model writes: no exception, no dependence on order, and votes that add up."""

from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.grading.graded_row import REASONS, graded_row
from evaluation.grading.strict import normalize, strict_verdict
from evaluation.grading.votes import comparable, group_answers, problem_votes
from evaluation.problems.golds import golds_of, judge
from tests.evaluation.graded_case import sample_row

PIECES = [
    "Answer:", "answer :", "\\boxed{", "}", "{", "$", "\n", "</think>", "42", "-", "1/2", "\\frac", "\\sqrt", ",", "=",
    " ", "\\text{and}", "^\\circ", "or", "%", "\\", "1e9", "x", "(", "]", "\ud800", "\x00", "٣", ".",
]  # fmt: skip
texts = st.one_of(st.text(max_size=80), st.lists(st.sampled_from(PIECES), max_size=14).map("".join))
golds = st.sampled_from(["42", "\\frac{1}{2}", "4.5e33", "$1$,$2$", "(1,2)", "4.2", "x=1"])


@given(texts, texts, st.sampled_from(["answer", "boxed"]))
@settings(deadline=None, max_examples=300)
def test_strict_never_raises(response, gold, form):
    is_right, read = strict_verdict(response, [gold], form)
    assert isinstance(is_right, bool)
    assert read is not None or not is_right


@given(texts)
def test_normal_text_of_an_answer_line_is_its_own(answer):
    line = answer.replace("\n", " ").replace("</think>", "")[-250:].strip()
    response = f"Answer: {line}"
    if line and "answer" not in line.lower():
        assert strict_verdict(response, [line]) == (True, normalize(line))


@given(texts, golds, st.sampled_from([None, 0.0, 0.1]), st.sampled_from(["stop", "length"]))
@settings(deadline=None, max_examples=300)
def test_a_row_for_every_text(response, gold, tolerance, finish_reason):
    problem = {"gold": gold, "golds": golds_of(gold, {}), "tolerance": tolerance}
    row = graded_row(problem, sample_row("p", 0, response, finish_reason), "answer")
    assert row["reason"] in REASONS
    assert row["correct"] == (row["reason"] == "correct")
    assert (row["extracted"] is None) == (row["reason"] in ("no_answer", "truncated"))
    assert row["reason"] != "truncated" or finish_reason == "length"


@given(st.lists(texts, max_size=5), golds)
@settings(deadline=None, max_examples=50)
def test_the_order_of_grading_does_not_matter(responses, gold):
    problem = {"gold": gold, "golds": [gold]}
    forth = [judge(problem, response) for response in responses]
    assert forth == [judge(problem, response) for response in reversed(responses)][::-1]


@given(st.integers(-(10**6), 10**6), st.integers(-(10**6), 10**6), st.integers(1, 10**6))
def test_tolerance_is_that_of_the_exact_numbers(gold, answer, tolerance):
    """In thousandths, where floats would err at the edge."""
    problem = {"gold": f"{gold / 1000:.3f}", "golds": None, "tolerance": tolerance / 1000}
    right = abs(gold - answer) <= tolerance
    assert judge(problem, f"Answer: {answer / 1000:.3f}").is_correct == right


def verdict_row(number, extracted, reason):
    return {
        "benchmark": "b", "problem": "p", "sample": number, "correct": reason == "correct", "strict": False,
        "reason": reason, "extracted": None if reason in ("no_answer", "truncated") else extracted, "tokens": 1,
        "finish_reason": "length" if reason == "truncated" else "stop",
    }  # fmt: skip


answers = st.sampled_from(["1", "2", "1/2", "0.5", "\\frac12", "x", "x+0", "1 or 2", "", "}", "\\pi"])
verdicts = st.lists(st.tuples(answers, st.sampled_from(REASONS)), max_size=12)


@given(verdicts, st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=100)
def test_votes_add_up(drawn, chance):
    rows = [verdict_row(number, *verdict) for number, verdict in enumerate(drawn)]

    def votes(of):
        wrong = comparable(of)
        return problem_votes(of, wrong, group_answers(wrong))

    found = votes(rows)
    assert sum(group["count"] for group in found["groups"]) == found["n"] - found["no_answer"]
    assert sum(group["count"] for group in found["groups"] if group["correct"]) == found["correct"]
    assert sum(group["correct"] for group in found["groups"]) <= 1
    counts = [group["count"] for group in found["groups"]]
    assert counts == sorted(counts, reverse=True)
    assert 0.0 <= found["majority"] <= 1.0
    shuffled = rows[:]
    chance.shuffle(shuffled)
    assert votes(shuffled) == found
