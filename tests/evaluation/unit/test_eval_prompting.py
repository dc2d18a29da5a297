"""The text the model reads."""

import pytest

from evaluation.problems.prompting import PromptError, prompter_for, style_of
from rpg_openrlhf.problems.prompt import render_prompt


class Tokenizer:
    """A chat template in one line."""

    chat_template = "yes"

    def apply_chat_template(self, messages, tokenize, add_generation_prompt):
        assert not tokenize
        assert add_generation_prompt
        return "".join(f"<{m['role']}>{m['content']}" for m in messages) + "<assistant>"

    def __call__(self, text, add_special_tokens):
        return {"input_ids": [int(add_special_tokens), len(text)]}


class BaseTokenizer(Tokenizer):
    chat_template = None


def test_the_published_prompt_is_the_trainers():
    assert style_of("dapo").render("1+{1}=?") == render_prompt("1+{1}=?")
    assert style_of("dapo").template.replace("{problem}", "X") == render_prompt("X")


def test_boxed_and_raw():
    assert style_of("boxed").render("P").startswith("P\n\n")
    assert "\\boxed{}" in style_of("boxed").render("P")
    assert style_of("raw").render("{problem} {}") == "{problem} {}"


def test_a_file_with_one_place(tmp_path):
    path = tmp_path / "style.txt"
    path.write_text("Q: {problem} {x}\nA:", encoding="utf-8")
    assert style_of(str(path)).render("{1}") == "Q: {1} {x}\nA:"
    named = path.replace(tmp_path / "dapo")
    assert style_of(str(named)).render("{1}") == "Q: {1} {x}\nA:", "a file of that name is not the published prompt"
    path.write_text("Q:", encoding="utf-8")
    with pytest.raises(PromptError, match="exactly once, it holds it 0 times"):
        style_of(str(path))
    with pytest.raises(PromptError, match="not one of dapo, boxed, raw, and no such file"):
        style_of("dappo")


def test_chat_is_on_where_there_is_a_template():
    style = style_of("raw")
    chat = prompter_for(style, None, "S", Tokenizer())
    assert chat.render("P") == "<system>S<user>P<assistant>"
    assert chat.token_ids("abc") == [0, 3], "a template writes its special tokens itself"
    base = prompter_for(style, None, None, BaseTokenizer())
    assert base.render("P") == "P"
    assert base.token_ids("abc") == [1, 3]
    assert prompter_for(style, False, None, Tokenizer()).render("P") == "P"


def test_a_server_gets_messages():
    prompter = prompter_for(style_of("raw"), None, None, None)
    assert prompter.render("P") == [{"role": "user", "content": "P"}]
    assert prompter_for(style_of("raw"), False, None, None).render("P") == "P"


def test_what_cannot_be_is_refused():
    with pytest.raises(PromptError, match="--no-chat-template"):
        prompter_for(style_of("raw"), True, None, BaseTokenizer())
    with pytest.raises(PromptError, match="--system"):
        prompter_for(style_of("raw"), None, "S", BaseTokenizer())
