"""Rows of a problem set as they come, one at a time: JSONL, a JSON array, or parquet."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rpg_openrlhf.config import Refusal
from rpg_openrlhf.problems.rows import ANSWER_FIELDS, TEXT_FIELDS, BadRow

KINDS = (".jsonl", ".json", ".parquet")
# A parquet file is decoded this many rows at a time, column chunks through buffers of this size: a row group of the
# hub's DAPO-Math-17k holds a million rows.
BATCH_ROWS = 2_000
BUFFER_BYTES = 1 << 20


def rows_of(path: Path, flag: str, fields: Sequence[str] = ()) -> Iterator[tuple[int, Any]]:
    """(line or row number, row), where a line that is no JSON is a BadRow. A Refusal if the file cannot be read."""
    if path.suffix not in KINDS:
        raise Refusal(f"{flag} {path}: is none of the known kinds: {', '.join(KINDS)}")
    try:
        if path.suffix == ".parquet":
            yield from _parquet(path, flag, fields)
        elif path.suffix == ".json" and _is_array(path):
            yield from _array(path, flag)
        else:
            yield from _lines(path)
    except OSError as error:  # pyarrow's error for a file that is no parquet is a ValueError, and caught there
        raise Refusal(f"{flag} {path}: {error.strerror or ' '.join(str(error).split())}") from None


def _lines(path: Path) -> Iterator[tuple[int, Any]]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    yield number, json.loads(line)
                except (ValueError, RecursionError):
                    yield number, BadRow("is not JSON")


def _is_array(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(64).lstrip().startswith(b"[")


def _array(path: Path, flag: str) -> Iterator[tuple[int, Any]]:
    """Read whole: JSON has no rows to stream."""
    try:
        rows = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise Refusal(f"{flag} {path}: is not JSON: {error}") from None
    yield from enumerate(rows, start=1)


def _parquet(path: Path, flag: str, fields: Sequence[str]) -> Iterator[tuple[int, Any]]:
    import pyarrow.parquet  # imported late: JSONL needs none of it

    try:
        file = pyarrow.parquet.ParquetFile(path, buffer_size=BUFFER_BYTES, pre_buffer=False)
    except ValueError as error:
        raise Refusal(f"{flag} {path}: is not a parquet file: {' '.join(str(error).split())}") from None
    wanted = {*(fields or (*TEXT_FIELDS, *ANSWER_FIELDS, "text", "reward_model")), "id", "extra_info"}
    columns = [name for name in file.schema_arrow.names if name in wanted]
    if not columns:
        raise Refusal(f"{flag} {path}: has only the columns {', '.join(file.schema_arrow.names)}")
    number = 0
    try:
        for batch in file.iter_batches(BATCH_ROWS, columns=columns, use_threads=False):
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except ValueError as error:
        raise Refusal(f"{flag} {path}: is damaged after row {number}: {' '.join(str(error).split())}") from None


def sha256(path: Path) -> str:
    """Of the file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
