"""Prompt of a problem: prompt style, system message, chat template."""

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
    """`template` holds {problem} in the problem's place; `name` is dapo, boxed, raw or the file's name."""

    name: str
    template: str

    def render(self, problem: str) -> str:
        """User message. Uses `replace`, not `format`, so that other braces stay as they are."""
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
        """Text that the model reads, or messages to which a server applies its own template."""
        text = self.style.render(problem)
        if not self.chat:
            return text
        messages = [{"role": "system", "content": self.system}] if self.system is not None else []
        messages.append({"role": "user", "content": text})
        if self.tokenizer is None:
            return messages
        try:
            return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except Exception as error:  # templates raise their own errors, e.g. for a system message
            reason = " ".join(str(error).split())[:200]
            raise PromptError(
                f"the model's chat template refuses the messages ({reason}): try without --system"
            ) from None

    def token_ids(self, prompt: str) -> list[int]:
        """Token ids of a rendered prompt; special tokens are added unless a chat template has written them."""
        return self.tokenizer(prompt, add_special_tokens=not self.chat)["input_ids"]


def prompter_for(style: Style, chat: bool | None, system: str | None, tokenizer: Any) -> Prompter:
    """Prompter; `chat` None: on if there is a template or a server. PromptError if the flags need a missing one."""
    has_template = tokenizer is None or bool(getattr(tokenizer, "chat_template", None))
    if chat and not has_template:
        raise PromptError("--chat-template: this model's tokenizer has none: use --no-chat-template")
    chat = has_template if chat is None else chat
    if system is not None and not chat:
        raise PromptError("--system: this model's tokenizer has no chat template to put it in")
    return Prompter(style, chat, system, tokenizer)
