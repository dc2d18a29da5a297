"""Upstream's entry point, called the way upstream calls it: loaded by path, in threads, one query at a time."""

import asyncio
import importlib.util
from pathlib import Path

import pytest
import torch

import rpg_openrlhf.rewards
from rpg_openrlhf.problems.prompt import render_prompt

PATH = Path(rpg_openrlhf.rewards.__file__).with_name("reward_func.py")
PROMPT = f"<|im_start|>user\n{render_prompt('What is 6 * 7?')}<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture
def module():
    spec = importlib.util.spec_from_file_location("reward_func", PATH)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def score(module, response, label="42", prompt=PROMPT):
    return module.reward_func([prompt + response], [prompt], [label])


@pytest.mark.parametrize(
    ("response", "label", "reward"),
    [
        ("6 * 7 = 42\nAnswer: 42<|im_end|>", "42", 1),
        ("Answer: 42<|im_end|>\n<|endoftext|><|endoftext|>", 42, 1),
        ("Answer: 42</s>", 42.0, 1),
        ("Answer: 42<eos>", "42", 1),
        ("Answer: 42<｜end▁of▁sentence｜>", "42", 1),
        ("\\boxed{42}<end_of_turn>\n", "42", 1),
        ("<think>\\boxed{41}</think>\n\nAnswer: 42<|im_end|>", "42", 1),
        ("Answer: 41<|im_end|>", "42", -1),
        ("I do not know", "42", -1),
        ("", "42", -1),
        ("Answer: 42", None, -1),
    ],
)
def test_reward(module, response, label, reward):
    result = score(module, response, label)
    assert result["rewards"].tolist() == [reward]
    assert result["scores"].tolist() == [float(reward > 0)]
    # What upstream's samples generator makes of them.
    assert torch.tensor([result["rewards"]]).shape == (1,)
    assert torch.tensor([result["scores"]])[0].item() == float(reward > 0)
    assert all(value.flatten()[0].item() in (0.0, 1.0) for value in result["extra_logs"].values())


def test_many_at_once(module):
    responses = ["Answer: 42", "Answer: 41", "nothing", "Answer: 42 or 41", "Answer: 9^{9^{9^9}}"]
    result = module.reward_func([PROMPT + r for r in responses], [PROMPT] * 5, ["42"] * 5)
    assert result["rewards"].tolist() == [1, -1, -1, -1, -1]
    assert result["extra_logs"]["no_answer"].tolist() == [0, 0, 1, 0, 0]
    assert result["extra_logs"]["answer_ambiguous"].tolist() == [0, 0, 0, 1, 0]
    assert result["extra_logs"]["grade_timeout"].tolist() == [0, 0, 0, 0, 1]


def test_the_prompt_itself_is_never_graded(module):
    gold = "$Answer (without quotes) where $Answer is the answer to the problem."
    for query in (
        PROMPT,
        PROMPT + "I give up.",
        "<s>" + PROMPT + "Hm.",
        PROMPT.replace("\n", " ") + "Hm.",
        PROMPT[30:] + "Hm.",
    ):
        result = module.reward_func([query], [PROMPT], [gold])
        assert result["rewards"].tolist() == [-1]
        assert result["extra_logs"]["no_answer"].tolist() == [1]


@pytest.mark.parametrize(
    "change",
    [
        lambda prompt: "<s>" + prompt,
        lambda prompt: "<|begin_of_text|> " + prompt,
        lambda prompt: prompt.replace("\n\n", "\n"),
        lambda prompt: prompt.replace(" ", "\u00a0"),
        lambda prompt: prompt.replace("<|im_start|>", "<|im_start|> "),
        lambda prompt: prompt[57:],  # cut from the left, as upstream cuts a long prompt
        lambda prompt: prompt.rstrip("\n"),
    ],
)
def test_prompt_that_came_back_changed(module, change):
    assert module.reward_func([change(PROMPT) + "Answer: 42<|im_end|>"], [PROMPT], ["42"])["rewards"].tolist() == [1]
    assert module.reward_func([change(PROMPT) + "No idea."], [PROMPT], ["42"])["extra_logs"]["no_answer"].tolist() == [
        1
    ]


def test_unknown_prompt_is_no_answer(module):
    result = module.reward_func(["Answer: 42"], ["something else entirely, and long enough"], ["42"])
    assert result["rewards"].tolist() == [-1]
    assert result["extra_logs"]["no_answer"].tolist() == [1]


def test_threads_as_upstream_uses_them(module):
    async def fetch():
        answers = [r"\sin(2x)", r"2\sin x\cos x", r"\cos x", "9^{9^{9^9}}", "2 \\sin x", "\\boxed{"] * 4
        tasks = [
            asyncio.to_thread(module.reward_func, [f"{PROMPT}Answer: ${answer}$"], [PROMPT], [r"\sin 2x"])
            for answer in answers
        ]
        return await asyncio.gather(*tasks)

    rewards = [result["rewards"].item() for result in asyncio.run(fetch())]
    assert rewards == [1, 1, -1, -1, -1, -1] * 4


@pytest.mark.parametrize(
    "payload",
    [
        "exec(\"open('pwned_marker','w').write('x')\")",
        "open('pwned_marker','w')",
        "__import__('os').system('touch pwned_marker')",
        "eval(compile(\"open('pwned_marker','w')\", '', 'exec'))",
        "(lambda: open('pwned_marker','w'))()",
        "[open('pwned_marker','w') for x in '1']",
        r"\frac{exec(open('pwned_marker','w'))}{2}",
        r"\sin(open('pwned_marker','w'))",
        r"\write18{touch pwned_marker}",
    ],
)
def test_payloads_leave_no_file(module, payload, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for template in ("Answer: {}", "\\boxed{{{}}}", "The answer is {}", "Answer: ${}$"):
        assert score(module, template.format(payload), r"\sin 2x")["rewards"].tolist() == [-1]
    assert list(tmp_path.iterdir()) == []


def test_never_raises(module):
    for query, prompt, label in [
        (None, None, None),
        (b"\xff", "", 1),
        ("\ud800", "", "\ud800"),
        ("Answer: \x00", "", []),
    ]:
        assert module.reward_func([query], [prompt], [label])["rewards"].shape == (1,)


def test_a_run_without_answers_says_so_once(module, capsys):
    for _ in range(200):
        score(module, "the answer is 42")
    lines = [line for line in capsys.readouterr().err.splitlines() if "WARNING" in line]
    assert len(lines) == 1
    assert "have no answer" in lines[0]


def test_a_run_with_answers_is_quiet(module, capsys):
    for _ in range(200):
        score(module, "Answer: 41")
    assert "WARNING" not in capsys.readouterr().err
