"""Problem and answer of a row, in any of the formats that trainers read."""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from rpg_openrlhf.problems.prompt import INSTRUCTION, REMINDER

TEXT_FIELDS = ("problem", "question", "prompt", "input", "messages")
ANSWER_FIELDS = ("answer", "label", "solution", "ground_truth")
NO_TEXT = "has none of"  # begins the reason of a row without a problem


class BadRow(ValueError):
    """Row without a usable problem; the text is the reason, without the row's place."""


@dataclass(frozen=True, slots=True)
class Row:
    """Problem `text` without the published prompt. `id` is None if the row has none, and `answer` is ""."""

    id: str | int | None
    text: str
    answer: str


def read_row(row: Any, text_field: str | None = None, answer_field: str | None = None) -> Row:
    """Problem of a row; BadRow if it has none, or is one. Without a named field the usual ones are tried."""
    if isinstance(row, BadRow):
        raise row
    if not isinstance(row, Mapping):
        raise BadRow("is not a JSON object")
    fields = (text_field,) if text_field else TEXT_FIELDS
    text = next((text for name in fields if (text := _text(row.get(name)))), None)
    if text is None:
        raise BadRow(f"{NO_TEXT} {', '.join(fields)}")
    text = text.replace(INSTRUCTION, " ").replace(REMINDER, " ").strip()
    return Row(_identity(row), text, _answer(row, answer_field))


def _answer(row: Mapping[str, Any], field: str | None) -> str:
    answers = [row.get(name) for name in ((field,) if field else ANSWER_FIELDS)]
    nested = row.get("reward_model")  # verl's schema, which DAPO-Math-17k uses
    if field is None and isinstance(nested, Mapping):
        answers.append(nested.get("ground_truth"))
    return next((text.strip() for answer in answers if (text := label_text(answer))), "")


def label_text(value: Any) -> str | None:
    """Gold answer as the text in its file; None if it is neither text nor number."""
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal) or value != value:
        return None
    return str(value) if str(value).strip() else None


def _identity(row: Mapping[str, Any]) -> str | int | None:
    nested = row.get("extra_info")
    for name in (row.get("id"), nested.get("index") if isinstance(nested, Mapping) else None):
        if isinstance(name, str | int):
            return name
    return None


def _text(value: Any) -> str:
    """Text of a string, or of the user turns in a list of messages."""
    if isinstance(value, str):
        return value.strip()
    if not isinstance(value, list):
        return ""
    turns = [turn for turn in value if isinstance(turn, Mapping) and isinstance(turn.get("content"), str)]
    questions = [turn["content"] for turn in turns if turn.get("role") == "user"]
    return "\n".join(questions).strip()
