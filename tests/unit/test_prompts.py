"""The published prompt, to the letter."""

from rpg_openrlhf.problems.prompt import PROMPT_TEMPLATE, render_prompt

PUBLISHED = (
    "Solve the following math problem step by step. The last line of your response should be of the form "
    "Answer: $Answer (without quotes) where $Answer is the answer to the problem.\n\n"
    "What is 6 * 7?\n\n"
    'Remember to put your answer on its own line after "Answer:".'
)


def test_text():
    assert render_prompt("What is 6 * 7?") == PUBLISHED
    assert PROMPT_TEMPLATE.format("What is 6 * 7?") == PUBLISHED


def test_braces_of_the_problem_survive():
    problem = r"Find \frac{1}{2} + {} + {0}."
    assert problem in render_prompt(problem)
    assert PROMPT_TEMPLATE.format(problem) == render_prompt(problem)
    assert PROMPT_TEMPLATE.count("{") == PROMPT_TEMPLATE.count("}") == 1
