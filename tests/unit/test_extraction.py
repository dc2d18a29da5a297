r"""Which text is the answer: the last marker, after the last </think>, closed and not empty."""

import pytest

from rpg_openrlhf.rewards.extraction import extract_answer
from rpg_openrlhf.rewards.grading import grade

RIGHT = [
    "Answer: 42", "answer: 42", "ANSWER: 42", "Answer : 42", "Answer:42", "Answer：42", "**Answer:** 42",
    "**Answer**: 42", "**Answer: 42**", "__Answer:__ 42", "### Answer: 42", "Final Answer: 42",
    "**Final Answer:** $42$", "- Answer: 42", "Answer:\n42", "Answer:\n\n$$\n42\n$$", "Answer:\n\\[\n42\n\\]",
    "Answer: $$42$$", "**Answer:**\n\n**42**", "So x = 41 + 1. Answer: 42", "Answer: 41\nWait.\nAnswer: 42",
    "\\boxed{41} no, \\boxed{42}", "\\boxed{41}\nAnswer: 42", "Answer: 41\n\\boxed{42}", "Answer: \\boxed{42}",
    "Answer: $\\boxed{42}$.", "<think>\\boxed{41}</think>\\boxed{42}", "<think>Answer: 41</think>\nAnswer: 42",
    "a</think>b</think>Answer: 42", "\\boxed {42}", "\\fbox{42}", "\\boxed{\\boxed{42}}",
    "\\boxed{\\text{Answer: }42}", "\\boxed{\\text{Answer}: 42}",
    "$$\\boxed{42}$$\n", "\\boxed{42}\n\nThis is it.", "Answer: 42\n\nDone.",
    "Answer: 42  \n", 'Answer: 42\nI put it after "Answer:".', "\\boxed{x = 42}", "Answer: $x=42$", "Answer: 42 .",
    "Answer: \\(42\\)", "Answer: \\[42\\]", "\\boxed{42\\text{ cm}}", "The answer: 42",
    "x" * 30_000 + "\nAnswer: 42", "Answer: The answer is \\boxed{42}.", "Answer: **42**", "Answer: `42`",
    "\\boxed{{42}}", "\\boxed{$42$}", "\\boxed 42",
]  # fmt: skip
WRONG = [
    "Answer: 41", "Answer: 42\nAnswer: 41", "\\boxed{42}\n\\boxed{41}", "Answer: 42\n\\boxed{41}",
    "\\boxed{42}\nAnswer: 41", "Answer: \\boxed{42} or \\boxed{41}", "\\boxed{42} or \\boxed{41}",
    "\\boxed{41} and \\boxed{42}", "Answer: \\boxed{42} or 41", "Answer: 41 or \\boxed{42}",
    "\\boxed{41}, \\boxed{42}", "Answer: $Answer", "Answer: see 42 above", "Answer: unknown",
]  # fmt: skip
NO_ANSWER = [
    "", " ", "42", "The answer is 42", "so it is $42$.", "\\boxed{42", "\\boxed{}", "\\boxed{ }", "Answer:",
    "Answer: ", "Answer:\n", "Answer: \\boxed{42", "Answer: $$", "<think>Answer: 42</think>",
    "<think>\\boxed{42}</think> done", "Answer: 42</think>", "\\boxed{\\frac{84}{2}", "Answer: 41\n\\boxed{42",
    "boxed{42}", "Answer 42", "**Answer:**", 'write it after "Answer:".', "Answer: 42\n" + "x" * 25_000, "\\boxed",
    "Answer: \\boxed{}", "Answers: 42", "Answer: .", "Answer: 42 \\boxed{4",
]  # fmt: skip


@pytest.mark.parametrize("response", RIGHT)
def test_right(response):
    verdict = grade(response, "42")
    assert verdict.is_correct, verdict
    assert verdict.reason == "correct"
    assert verdict.extracted


@pytest.mark.parametrize("response", WRONG)
def test_wrong(response):
    verdict = grade(response, 42)
    assert not verdict.is_correct
    assert verdict.reason in ("wrong", "ambiguous")
    assert verdict.extracted is not None


@pytest.mark.parametrize("response", NO_ANSWER)
def test_no_answer(response):
    verdict = grade(response, "42")
    assert (verdict.is_correct, verdict.extracted, verdict.reason) == (False, None, "no_answer")


def test_joined_boxes_are_one_list():
    assert grade("The roots are $\\boxed{4}$ and $\\boxed{5}$.", "4,5").is_correct
    assert extract_answer("\\boxed{4} is wrong, so \\boxed{5}") == "5"


def test_gold_of_other_types():
    assert grade("Answer: 42", 42).is_correct
    assert grade("Answer: 0.5", 0.5).is_correct
    assert grade("\\boxed{n^2}", "$\\boxed{n^2}$").is_correct
