"""Lock that allows one run per `--ckpt.path`: two runs would destroy each other's checkpoints."""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from rpg_openrlhf.errors import Refusal

NAME = ".lock"
PATIENCE = 60.0  # seconds to wait for a previous run to end


def await_earlier(path: Path) -> None:
    """Wait until no other run writes to `path`, so that a new run finds its last checkpoint.

    A run whose supervisor was killed takes some seconds to end, and may still write a checkpoint. Raise Refusal
    if it does not end.
    """
    deadline, is_announced = time.monotonic() + PATIENCE, False
    while (path / NAME).exists():
        try:
            with only_run(path):
                return
        except Refusal:
            if time.monotonic() > deadline:
                raise
        if not is_announced:
            print(f"waiting: another run is still writing to {path}", flush=True)
            is_announced = True
        time.sleep(0.5)


@contextlib.contextmanager
def only_run(path: Path) -> Iterator[int]:
    """Lock `path`, or raise Refusal. Yield the lock's descriptor; a child that inherits it holds the lock too."""
    lock = os.open(path / NAME, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Refusal(f"--ckpt.path {path}: another run is writing there; choose another path") from None
        yield lock
    finally:
        os.close(lock)
