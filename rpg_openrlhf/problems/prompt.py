"""The published prompt (RPG, arXiv:2505.17508, appendix H): one text for training and evaluation.

`PROMPT_TEMPLATE` suits `str.format` and OpenRLHF's `--data.input_template`: it has one `{}`, and no other brace.
"""

INSTRUCTION = (
    "Solve the following math problem step by step. The last line of your response should be of the form "
    "Answer: $Answer (without quotes) where $Answer is the answer to the problem."
)
REMINDER = 'Remember to put your answer on its own line after "Answer:".'
PROMPT_TEMPLATE = INSTRUCTION + "\n\n{}\n\n" + REMINDER


def render_prompt(problem: str) -> str:
    """The user turn for one problem: instruction, problem, reminder. Braces in the problem are kept as they are."""
    return f"{INSTRUCTION}\n\n{problem}\n\n{REMINDER}"
