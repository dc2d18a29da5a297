"""Votes, counted by hand."""

import pytest

from evaluation.grading.votes import comparable, count_votes, group_answers, problem_votes, text_key


def row(extracted, reason="wrong", sample=0, finish_reason="stop", strict=False):
    return {
        "benchmark": "b", "problem": "p", "sample": sample, "correct": reason == "correct", "strict": strict,
        "reason": reason, "extracted": extracted, "strict_extracted": None, "tokens": 1, "grader": "g",
        "finish_reason": finish_reason,
    }  # fmt: skip


def votes(*rows):
    texts = comparable(rows)
    return problem_votes(rows, texts, group_answers(texts))


def shown(of):
    return [(group["answer"], group["count"], group["correct"]) for group in of["groups"]]


def test_groups_by_value():
    of = votes(row("1/2"), row("0.5"), row("\\frac12"), row("7"), row("7.0"), row("8"))
    assert shown(of) == [("0.5", 3, False), ("7", 2, False), ("8", 1, False)]


def test_right_answers_are_one_group():
    of = votes(row("0.5", "correct"), row("1/2", "correct", strict=True), row("1/2", "correct"), row("3"), row("3"))
    assert shown(of) == [("1/2", 3, True), ("3", 2, False)]
    assert (of["n"], of["correct"], of["strict"], of["majority"]) == (5, 3, 1, 1.0)


def test_ties_are_averaged():
    assert votes(row("1", "correct"), row("2"))["majority"] == 0.5
    assert votes(row("1", "correct"), row("2"), row("3"), row("4"))["majority"] == 0.25
    assert votes(row("1", "correct"), row("2"), row("2"))["majority"] == 0.0
    assert votes(row("1"), row("2"))["majority"] == 0.0


def test_those_without_an_answer_do_not_vote():
    of = votes(
        row("1", "correct"),
        row(None, "no_answer"),
        row(None, "truncated", finish_reason="length"),
        row(None, "timeout"),
    )
    assert (of["n"], of["no_answer"], of["truncated"], of["timeout"], of["majority"]) == (4, 2, 1, 1, 1.0)
    assert shown(of) == [("1", 1, True)]
    assert votes(row(None, "no_answer"))["majority"] == 0.0
    assert votes(row(None, "no_answer"))["groups"] == []


def test_what_a_reward_of_the_users_took_for_right_votes_without_an_answer_line():
    of = votes(row(None, "correct"), row(None, "correct"), row("3"))
    assert (of["majority"], shown(of)[0]) == (1.0, ("", 2, True))


def test_ambiguous_and_too_costly_answers_vote_by_their_text():
    of = votes(
        row("1 or 2", "ambiguous"), row("1  or 2", "ambiguous"), row("9^{9^9}", "timeout"), row("2 or 1", "ambiguous")
    )
    assert sorted(group["count"] for group in of["groups"]) == [1, 1, 2]
    assert of["timeout"] == 1


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        ("42", "42.", True), ("042", "42.0", True), ("$x + 1$", "x+1", True), ("\\dfrac{1}{2}", "\\frac{1}{2}", True),
        ("\\pi x", "\\pix", False), ("1 2", "12", False), ("a b", "ab", False), ("-0", "0", True), ("5", "-5", False),
    ],
)  # fmt: skip
def test_equal_text(left, right, same):
    assert (text_key(left) == text_key(right)) is same


def test_comparisons_are_bounded(monkeypatch):
    asked = []

    def grade(response, gold):
        asked.append((response, gold))
        return type("Verdict", (), {"is_correct": False})

    monkeypatch.setattr("evaluation.grading.votes.grade", grade)
    assert group_answers([f"x+{number}" for number in range(1000)]) == list(range(1000))
    assert len(asked) == 300
    asked.clear()
    assert group_answers([str(number) for number in range(1000)]) == list(range(1000))
    assert asked == []


def test_texts_that_no_response_can_say_stay_alone():
    assert group_answers(["\\boxed{", "}", "a\nb", "x" * 1000]) == [0, 1, 2, 3]


def test_the_file():
    rows = [
        row("1/2", sample=0),
        row("0.5", sample=1),
        row("1", "correct", sample=2),
        row("7", sample=3) | {"problem": "q"},
    ]
    found = count_votes(rows)
    assert found == count_votes(rows[::-1]) | {"benchmarks": found["benchmarks"]}
    assert shown(found["benchmarks"]["b"]["p"]) == [("0.5", 2, False), ("1", 1, True)]
    assert found["benchmarks"]["b"]["q"]["majority"] == 0.0
