"""samples.jsonl: appended as samples finish, repaired after a kill, never two writers."""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

Key = tuple[str, str, int]


class StoreError(OSError):
    """A file of a run cannot be used as it is, in one line."""

    def __str__(self) -> str:
        return str(self.args[-1])


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """An error of writing says which file, and that it is not the end of what was there: a full disk names neither."""
    try:
        yield
    except OSError as error:
        problem = f"{path}: {error.strerror or error}; what is finished is kept, the same command resumes"
        raise StoreError(error.errno, problem) from None


class SampleStore:
    """Open for appending; `done` holds the keys (benchmark, problem, sample) on disk, `tokens` their token count."""

    def __init__(self, folder: Path):
        self.path = folder / "samples.jsonl"
        self.file: IO[bytes] = self.path.open("a+b")
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.file.close()
            raise StoreError(
                f"{self.path}: another process is sampling into this folder; wait for it or stop it"
            ) from None
        self.done: set[Key] = set()
        self._read()

    def _read(self) -> None:
        """Note what is there; a last line without its end was cut off by a kill and is sampled again."""
        self.file.seek(0)
        end = 0
        for number, line in enumerate(self.file, start=1):
            if not line.endswith(b"\n"):
                break
            try:
                row = json.loads(line)
                self.done.add((row["benchmark"], row["problem"], row["sample"]))
            except (ValueError, KeyError, TypeError):
                raise StoreError(f"{self.path}:{number} is not a sample; delete that line and run again") from None
            end += len(line)
        self.file.truncate(end)

    def append(self, rows: list[dict[str, Any]]) -> None:
        """Whole lines, handed to the kernel, where a kill cannot reach them. OSError if the disk is full."""
        fresh = {(row["benchmark"], row["problem"], row["sample"]): row for row in rows}
        lines = [json.dumps(row) + "\n" for key, row in fresh.items() if key not in self.done]
        with naming(self.path):
            self.file.write("".join(lines).encode())
            self.file.flush()
        self.done.update(fresh)

    def close(self) -> None:
        """Give the folder back. What a full disk kept in the buffer is dropped: it will be sampled again."""
        with contextlib.suppress(OSError):
            self.file.close()


def write_json(path: Path, content: Any) -> None:
    """Whole or not at all."""
    write_text(path, json.dumps(content, indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write under a temporary name, then rename. OSError if the disk is full, with the old file in place."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with naming(path):
            partial.write_text(text, encoding="utf-8")
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read_json(path: Path) -> Any:
    """StoreError in one line if it is no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise StoreError(f"{path} is not JSON ({error})") from None
