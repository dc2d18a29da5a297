"""Reader of problem files: rows as they are in the file, numbers with the digits written there.

It reads JSON lines, a JSON array, CSV, parquet and Arrow files. A row that cannot be read becomes a BadRow, which
callers refuse or count.
"""

import csv
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rpg_openrlhf.errors import Refusal
from rpg_openrlhf.problems.rows import ANSWER_FIELDS, TEXT_FIELDS, BadRow

KINDS = (".jsonl", ".json", ".csv", ".parquet", ".arrow")
# Parquet files are decoded in batches of this many rows, through buffers of this size, because a row group of the
# hub's DAPO-Math-17k has a million rows.
BATCH_ROWS = 2_000
BUFFER_BYTES = 1 << 20
# The fingerprint of a larger file covers its size and SAMPLES blocks: milliseconds for 8 GB of weights, not seconds.
WHOLE_BYTES, SAMPLES, BLOCK_BYTES = 64 << 20, 64, 1 << 20


class Decimals(float):
    """JSON number with a point or an exponent, which keeps the text that it has in the file."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __str__(self) -> str:
        return self.text


def rows_of(path: Path, flag: str, fields: Sequence[str] | None = ()) -> Iterator[tuple[int, Any]]:
    """Yield (line or row number, row or BadRow); a Refusal that names `flag` if the file cannot be read.

    fields: columns to read from a parquet file; (): the usual ones; None: all.
    """
    if path.suffix not in KINDS:
        raise Refusal(f"{flag} {path}: must be of a known kind: {', '.join(KINDS)}")
    try:
        if path.suffix in (".parquet", ".arrow"):
            yield from _columns(path, flag, fields)
        elif path.suffix == ".csv":
            yield from _csv(path, flag)
        elif path.suffix == ".json" and _is_array(path):
            yield from _array(path, flag)
        else:
            yield from _lines(path)
    except OSError as error:
        raise Refusal(f"{flag} {path}: {error.strerror or ' '.join(str(error).split())}") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def parse_json(text: str | bytes) -> Any:
    """Parse a JSON value whose numbers keep their digits; ValueError or RecursionError if it is not JSON."""
    return json.loads(text, parse_float=Decimals, parse_constant=_refuse_constant)


def _lines(path: Path) -> Iterator[tuple[int, Any]]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if not line.strip():
                continue
            try:
                yield number, parse_json(line)
            except UnicodeDecodeError:
                yield number, BadRow("is not UTF-8")
            except (ValueError, RecursionError):
                yield number, BadRow("is not JSON")


def _is_array(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(64).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"[")


def _array(path: Path, flag: str) -> Iterator[tuple[int, Any]]:
    """Read a JSON array whole, because it cannot be streamed."""
    try:
        rows = parse_json(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise Refusal(f"{flag} {path}: is not JSON: {error}") from None
    yield from enumerate(rows, start=1)


def _csv(path: Path, flag: str) -> Iterator[tuple[int, Any]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            for row in reader:
                has_more = None in row or None in row.values()
                yield reader.line_num, BadRow("has more or fewer fields than the header") if has_more else row
        except (csv.Error, UnicodeDecodeError) as error:
            place, why = f"{flag} {path}:{reader.line_num + 1}", " ".join(str(error).split())
            raise Refusal(f"{place} is not CSV: {why}; correct it, because no row after it can be read") from None


def _columns(path: Path, flag: str, fields: Sequence[str] | None) -> Iterator[tuple[int, Any]]:
    import pyarrow  # not needed for JSONL

    number = 0
    try:
        for batch in _arrow(path) if path.suffix == ".arrow" else _parquet(path, fields):
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except (ValueError, pyarrow.ArrowException) as error:
        why = " ".join(str(error).split())
        where = f"is damaged after row {number}" if number else f"is not a {path.suffix[1:]} file"
        raise Refusal(f"{flag} {path}: {where}: {why}") from None


def _parquet(path: Path, fields: Sequence[str] | None) -> Iterator[Any]:
    import pyarrow.parquet

    file = pyarrow.parquet.ParquetFile(path, buffer_size=BUFFER_BYTES, pre_buffer=False)
    names, columns = file.schema_arrow.names, None
    if fields is not None:
        wanted = {*(fields or (*TEXT_FIELDS, *ANSWER_FIELDS, "text", "reward_model")), "id", "extra_info"}
        columns = [name for name in names if name in wanted] or None
    yield from file.iter_batches(BATCH_ROWS, columns=columns, use_threads=False)


def _arrow(path: Path) -> Iterator[Any]:
    """Batches of a file that the datasets library wrote (a stream), or of an Arrow IPC file."""
    import pyarrow

    with pyarrow.memory_map(str(path)) as source:
        try:
            yield from pyarrow.ipc.open_stream(source)
        except pyarrow.ArrowInvalid:
            file = pyarrow.ipc.open_file(source)
            yield from (file.get_batch(index) for index in range(file.num_record_batches))


def sha256(path: Path) -> str:
    """Hash of the file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(path: Path) -> str:
    """Hash of a file, or of the size and evenly spaced blocks of a large one; for a folder, over its files."""
    if path.is_dir():
        digest = hashlib.sha256()
        for file in sorted(file for file in path.rglob("*") if file.is_file()):
            digest.update(f"{file.relative_to(path)} {fingerprint(file)}\n".encode())
        return digest.hexdigest()
    size = path.stat().st_size
    if size <= WHOLE_BYTES:
        return sha256(path)
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for index in range(SAMPLES):
            file.seek((size - BLOCK_BYTES) * index // (SAMPLES - 1))
            digest.update(file.read(BLOCK_BYTES))
    return digest.hexdigest()
