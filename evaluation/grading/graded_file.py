"""Files of a run folder that grading reads and writes: samples.jsonl in, graded.jsonl out, one writer at a time."""

import fcntl
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from evaluation.grading.graded_row import REASONS, Key, Row, grader_version, key_of
from evaluation.grading.strict import form_of
from evaluation.store import naming, write_text


class GradeError(ValueError):
    """A run folder that cannot be graded as it is, in one line."""


def read_settings(folder: Path) -> dict[str, Any]:
    """Settings that decide verdicts: n, benchmarks, form. GradeError if the folder is not a run folder."""
    path = folder / "settings.json"
    if not folder.is_dir():
        raise GradeError(f"{folder} is not a folder: give the --output of an evaluation.run")
    if not path.exists():
        raise GradeError(f"{folder} has no settings.json: give the --output of an evaluation.run")
    try:
        content = json.loads(path.read_bytes())
        form = form_of(str(content["prompt"].get("style")), str(content["prompt"].get("template")))
        return {"n": int(content["n"]), "benchmarks": dict(content["benchmarks"]), "form": form}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise GradeError(f"{path} is not the settings of a run: restore it, or sample again") from None


def read_problems(folder: Path) -> dict[tuple[str, str], Row]:
    """problems.jsonl by (benchmark, problem), in its order."""
    rows = {}
    for row in _rows(folder / "problems.jsonl", {"benchmark": str, "problem": str, "gold": str}):
        rows[row["benchmark"], row["problem"]] = row
    return rows


def read_samples(folder: Path, wanted: Iterable[tuple[str, str]], n: int) -> Iterator[Row]:
    """Samples 0 to n-1 of the wanted problems, each once; an unfinished last line is skipped."""
    path, problems, seen = folder / "samples.jsonl", set(wanted), set[Key]()
    if not path.exists():
        return
    kinds = {"benchmark": str, "problem": str, "sample": int, "text": str, "tokens": int, "finish_reason": str}
    for row in _rows(path, kinds):
        key = key_of(row)
        if key[:2] in problems and 0 <= key[2] < n and key not in seen:
            seen.add(key)
            yield row


def _rows(path: Path, kinds: dict[str, type]) -> Iterator[Row]:
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.endswith(b"\n"):
                    return
                yield _row(f"{path}:{number}", line, kinds)
    except FileNotFoundError:
        raise GradeError(f"{path} is missing: run evaluation.run again with the same --output") from None
    except OSError as error:
        raise GradeError(f"{path}: {error.strerror or error}") from None


def _row(place: str, line: bytes, kinds: dict[str, type]) -> Row:
    try:
        row = json.loads(line)
        if all(isinstance(row[name], kind) for name, kind in kinds.items()):
            return row
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise GradeError(f"{place} is damaged: delete that line and run the same command again")


def is_current(row: Row, sample: Row) -> bool:
    """True if the verdict is this grader's, on a sample of the same length and finish reason."""
    same = all(row[name] == sample[name] for name in ("tokens", "finish_reason"))
    return same and row["grader"] == grader_version()


class GradedFile:
    """graded.jsonl, locked. `rows` holds its rows by key; of two rows of one sample the later counts."""

    def __init__(self, folder: Path):
        self.path = folder / "graded.jsonl"
        self._file = self._locked()
        self.rows: dict[Key, Row] = {}
        self._read()

    def _locked(self) -> IO[bytes]:
        while True:
            try:
                file = self.path.open("a+b")
            except OSError as error:
                raise GradeError(f"{self.path}: {error.strerror or error}") from None
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
                raise GradeError(f"{self.path}: another process is grading this folder; wait for it") from None
            # Between opening and locking, another process may have replaced the file.
            if self.path.exists() and self.path.samefile(f"/dev/fd/{file.fileno()}"):
                return file
            file.close()

    def _read(self) -> None:
        """Read the rows. A kill may cut the last line off: it is removed, and its sample graded again."""
        self._file.seek(0)
        end = 0
        kinds = {"benchmark": str, "problem": str, "sample": int, "correct": bool, "strict": bool, "reason": str}
        for number, line in enumerate(self._file, start=1):
            if not line.endswith(b"\n"):
                break
            row = _row(f"{self.path}:{number}", line, kinds | {"grader": str, "tokens": int, "finish_reason": str})
            if row["reason"] in REASONS:
                self.rows[key_of(row)] = row
            end += len(line)
        self._file.truncate(end)
        self._file.seek(end)

    def append(self, row: Row) -> None:
        """Append one row and flush it to the kernel. OSError if the disk is full."""
        with naming(self.path):
            self._file.write(json.dumps(row).encode() + b"\n")
            self._file.flush()
        self.rows[key_of(row)] = row

    def rewrite(self, rows: list[Row]) -> None:
        """Replace the content atomically. OSError if the disk is full; the old content is kept."""
        write_text(self.path, "".join(json.dumps(row) + "\n" for row in rows))
        self.rows = {key_of(row): row for row in rows}

    def close(self) -> None:
        """Close and unlock the file. Rows that a full disk left in the buffer are dropped and graded again later."""
        try:
            self._file.close()
        except OSError:
            return
