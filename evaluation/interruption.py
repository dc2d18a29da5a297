"""Ctrl-C and SIGTERM: at whatever moment they come, one clean line and the status that a shell expects.

The first raises Stopped; what follows within PATIENCE is ignored, for closing what is open takes seconds. `postponed`
keeps it out of what must not be cut in two, such as the start of a process that would be lost before it is noted.
"""

import contextlib
import importlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator

SIGNALS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
PATIENCE = 20.0  # seconds

_depth = 0  # of `postponed` blocks around what runs now
_waiting: signal.Signals | None = None
_last: tuple[signal.Signals, float] | None = None  # the signal that was answered, and when


class Stopped(KeyboardInterrupt):
    """The process was told to stop. A KeyboardInterrupt also for SIGTERM: libraries know how to leave on that."""


def program(name: str, module: str, kept: str) -> int:
    """`main` of the module as a whole process: its status, or 130 or 143 and one line that ends with `kept`.

    The module is imported in here, so that an interruption while libraries load is answered too.
    """
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup, or in the background of a shell
            signal.signal(number, _stop)
    try:
        status = importlib.import_module(module).main()
    except BaseException:
        if _last is None:
            raise
        status = 1  # Stopped, or what a library made of it
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # nothing is left to stop
    if not status or _last is None:
        return status
    os.write(sys.stderr.fileno(), f"{name}: error: {SIGNALS[_last[0]]}; {kept}\n".encode())
    return 128 + _last[0]


def _stop(number: int, frame: object) -> None:
    global _last, _waiting
    if _last is not None and time.monotonic() - _last[1] < PATIENCE:
        return
    _last = signal.Signals(number), time.monotonic()
    if not _depth:
        raise Stopped
    _waiting = _last[0]


@contextlib.contextmanager
def postponed() -> Iterator[Callable[[], None]]:
    """Signals wait in here until the function that it gives is called, or for the end."""
    global _depth
    _depth += 1
    try:
        yield _raise_waiting
    finally:
        _depth -= 1
        if not _depth:
            _raise_waiting()


def _raise_waiting() -> None:
    global _waiting
    if _waiting is not None:
        _waiting = None
        raise Stopped
