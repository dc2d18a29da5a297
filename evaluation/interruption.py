"""Ctrl-C and SIGTERM: at any moment they end the process with one line and the status that a shell expects.

The first signal raises Stopped. Further ones within PATIENCE are ignored, because closing engines and files takes
seconds. `postponed` delays it in code that must not be interrupted, e.g. between starting and recording a process.
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

_depth = 0  # number of `postponed` blocks around the running code
_waiting: signal.Signals | None = None
_last: tuple[signal.Signals, float] | None = None  # the last signal that was handled, and its time


class Stopped(KeyboardInterrupt):
    """The process was told to stop. A KeyboardInterrupt also for SIGTERM, because libraries handle that one."""


def program(name: str, module: str, kept: str) -> int:
    """Run the module's `main` -> its status, or 130 or 143 after a signal, with a line that ends with `kept`.

    The module is imported here, so that a signal while libraries load is handled too.
    """
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # ignored under nohup and in the background of a shell
            signal.signal(number, _stop)
    try:
        status = importlib.import_module(module).main()
    except BaseException:
        if _last is None:
            raise
        status = 1  # Stopped, or an exception that a library raised instead
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
    """Delay signals in the block until its end, or until the yielded function is called."""
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
