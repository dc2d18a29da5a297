"""Problems of a training file, streamed: JSONL in any of the shapes that trainers read."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rpg_openrlhf.prompts import INSTRUCTION, REMINDER

TEXT_FIELDS = ("problem", "question", "prompt", "input", "messages")
ANSWER_FIELDS = ("answer", "label", "solution", "ground_truth")


class TrainingFileError(ValueError):
    """A training file that cannot be compared with, in one line."""


@dataclass(frozen=True)
class TrainingRow:
    """`id` as the file has it, or the line's number; `text` without the prompt's words."""

    id: str | int
    text: str
    answer: str


@dataclass
class TrainingFile:
    """Iterate once; then `rows` and `sha256` tell what was read."""

    path: Path
    rows: int = 0
    _digest: Any = field(default_factory=hashlib.sha256)

    @property
    def sha256(self) -> str:
        """Of the file's bytes, so far as they were read."""
        return self._digest.hexdigest()

    def __iter__(self) -> Iterator[TrainingRow]:
        """Every row. TrainingFileError names the line that has no problem in it."""
        try:
            with self.path.open("rb") as lines:
                for number, line in enumerate(lines, start=1):
                    self._digest.update(line)
                    if line.strip():
                        self.rows += 1
                        yield _row(f"--train-data {self.path}:{number}", number, line)
        except OSError as error:
            raise TrainingFileError(f"--train-data {self.path}: {error.strerror or error}") from None
        if not self.rows:
            raise TrainingFileError(f"--train-data {self.path}: no rows in it")


def _row(place: str, number: int, line: bytes) -> TrainingRow:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise TrainingFileError(f"{place} is not JSON ({error}): a JSONL file is needed") from None
    if not isinstance(row, dict):
        raise TrainingFileError(f"{place} is not a JSON object")
    text = next((text for name in TEXT_FIELDS if (text := _text(row.get(name)))), None)
    if text is None:
        raise TrainingFileError(f"{place} has none of {', '.join(TEXT_FIELDS)}")
    nested = row.get("reward_model")
    answers = [row.get(name) for name in ANSWER_FIELDS]
    answers.append(nested.get("ground_truth") if isinstance(nested, dict) else None)
    answer = next((str(found) for found in answers if isinstance(found, str | int | float)), "")
    name = row.get("id")
    text = text.replace(INSTRUCTION, " ").replace(REMINDER, " ")
    return TrainingRow(name if isinstance(name, str | int) else number, text, answer)


def _text(value: Any) -> str:
    """A text, or what the user says in a list of messages."""
    if isinstance(value, str):
        return value.strip()
    if not isinstance(value, list):
        return ""
    turns = [turn for turn in value if isinstance(turn, dict) and isinstance(turn.get("content"), str)]
    said = [turn["content"] for turn in turns if turn.get("role") == "user"]
    return "\n".join(said).strip()
