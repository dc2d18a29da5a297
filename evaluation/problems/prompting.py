"""A problem to what the model reads: prompt style, system message, chat template."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rpg_openrlhf.problems.prompt import render_prompt

HOLE = "{problem}"
BOXED = HOLE + "\n\nPlease reason step by step, and put your final answer within \\boxed{}."

Prompt = str | list[dict[str, str]]


class PromptError(ValueError):
    """A prompt that cannot be built, in one line."""


@dataclass(frozen=True)
class Style:
    """`template` has the problem's place as {problem}; `name` is dapo, boxed, raw or the file's name."""

    name: str
    template: str

    def render(self, problem: str) -> str:
        """The user's turn. Replaced, not formatted: braces in a problem or a template are characters."""
        return self.template.replace(HOLE, problem)


def style_of(name: str) -> Style:
    """One of the named styles, or a text file that holds {problem} once. PromptError otherwise."""
    named = {"dapo": render_prompt(HOLE), "boxed": BOXED, "raw": HOLE}
    if name in named:
        return Style(name, named[name])
    path = Path(name)
    if not path.is_file():
        raise PromptError(f"--prompt {name}: not one of {', '.join(named)}, and no such file")
    try:
        template = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PromptError(f"--prompt {name} cannot be read as UTF-8 text ({error})") from None
    if template.count(HOLE) != 1:
        raise PromptError(f"--prompt {name}: must hold {HOLE} exactly once, it holds it {template.count(HOLE)} times")
    return Style(path.name, template)


@dataclass(frozen=True)
class Prompter:
    """Renders and tokenizes. Without a tokenizer (a server) chat prompts stay lists of messages."""

    style: Style
    chat: bool
    system: str | None
    tokenizer: Any = None

    def render(self, problem: str) -> Prompt:
        """The text the model reads, or the messages a server puts through its own template."""
        text = self.style.render(problem)
        if not self.chat:
            return text
        messages = [{"role": "system", "content": self.system}] if self.system is not None else []
        messages.append({"role": "user", "content": text})
        if self.tokenizer is None:
            return messages
        try:
            return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except Exception as error:  # templates refuse in words of their own, a system message for one
            reason = " ".join(str(error).split())[:200]
            raise PromptError(
                f"the model's chat template refuses the messages ({reason}): try without --system"
            ) from None

    def token_ids(self, prompt: str) -> list[int]:
        """Ids of a rendered prompt: a chat template writes its special tokens itself, plain text gets the model's."""
        return self.tokenizer(prompt, add_special_tokens=not self.chat)["input_ids"]


def prompter_for(style: Style, chat: bool | None, system: str | None, tokenizer: Any) -> Prompter:
    """`chat` None: on if the tokenizer has a template, or at a server. PromptError if what is asked is impossible."""
    has_template = tokenizer is None or bool(getattr(tokenizer, "chat_template", None))
    if chat and not has_template:
        raise PromptError("--chat-template: this model's tokenizer has none: use --no-chat-template")
    chat = has_template if chat is None else chat
    if system is not None and not chat:
        raise PromptError("--system: this model's tokenizer has no chat template to put it in")
    return Prompter(style, chat, system, tokenizer)
