"""samples.jsonl: appended as samples finish, repaired after a kill, locked to one writer."""

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
    """Turn an OSError of writing into a StoreError that names the file and says how to resume."""
    try:
        yield
    except OSError as error:
        problem = f"{path}: {error.strerror or error}; what is finished is kept, the same command resumes"
        raise StoreError(error.errno, problem) from None


class SampleStore:
    """samples.jsonl, open for appending; `done` holds the keys (benchmark, problem, sample) on disk."""

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
        """Read the keys. A kill may cut the last line off: it is removed, and its sample drawn again."""
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
        """Append rows and flush them to the kernel, where a kill cannot lose them. OSError if the disk is full."""
        fresh = {(row["benchmark"], row["problem"], row["sample"]): row for row in rows}
        lines = [json.dumps(row) + "\n" for key, row in fresh.items() if key not in self.done]
        with naming(self.path):
            self.file.write("".join(lines).encode())
            self.file.flush()
        self.done.update(fresh)

    def close(self) -> None:
        """Close and unlock the file. Rows that a full disk left in the buffer are dropped and sampled again later."""
        with contextlib.suppress(OSError):
            self.file.close()


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically."""
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
    """Read a JSON file; StoreError in one line if it is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise StoreError(f"{path} is not JSON ({error})") from None
