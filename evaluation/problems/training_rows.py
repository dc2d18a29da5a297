"""Problems of a training file, streamed: JSONL in any of the shapes that trainers read."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rpg_openrlhf.problems.rows import BadRow, read_row


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
        row = read_row(json.loads(line))
    except BadRow as error:
        raise TrainingFileError(f"{place} {error}") from None
    except (ValueError, RecursionError) as error:
        raise TrainingFileError(f"{place} is not JSON ({error}): a JSONL file is needed") from None
    return TrainingRow(number if row.id is None else row.id, row.text, row.answer)
