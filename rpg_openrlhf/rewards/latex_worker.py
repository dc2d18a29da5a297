"""The process in which math-verify reads LaTeX. Run as a script; it imports nothing of this package.

Talks length-prefixed JSON on its pipes: {"gold", "answer", "seconds"} -> {"same": true | false | null}; null means
that a limit was passed. Untrusted text never reaches this process itself: a forked child, with everything imported,
compares, and is killed and forked anew (milliseconds) when it takes too long or dies. The end of stdin ends both.
"""

import ctypes
import json
import os
import re
import resource
import select
import signal
import struct
import sys
import time
from typing import Any, BinaryIO

MEMORY_BYTES = 1 << 30
CPU_SHARE = 0.5  # of the wall limit: on a busy machine the wall clock alone would judge the load, not the answer
PR_SET_PDEATHSIG = 1


def read_message(stream: BinaryIO) -> Any:
    """The next message, or None at the end of the stream."""
    header = stream.read(4)
    if len(header) < 4:
        return None
    body = stream.read(struct.unpack(">I", header)[0])
    return json.loads(body)


def write_message(stream: BinaryIO, message: Any) -> None:
    body = json.dumps(message).encode()
    stream.write(struct.pack(">I", len(body)) + body)
    stream.flush()


def _decimal_to_quotient(match: re.Match[str]) -> str:
    whole, fraction = match.group(1), match.group(2)
    return (
        rf"\frac{{{int((whole + fraction) or 0)}}}{{{10 ** len(fraction)}}}" if len(fraction) < 40 else match.group()
    )


def read_latex(text: str) -> list[Any]:
    """sympy values of one expression, through math-verify's LaTeX path only (its other path calls parse_expr)."""
    from math_verify import LatexExtractionConfig, parse

    # As decimals two numbers would be compared to six places: 1e-8 would equal 2e-8.
    exact = re.sub(r"(\d*)\.(\d+)", _decimal_to_quotient, text)
    reader: Any = parse  # its annotation knows no None, which turns its signal-based limit off
    found = reader(f"${exact}$", extraction_config=[LatexExtractionConfig()], parsing_timeout=None)
    return [value for value in found if not isinstance(value, str)]


def same(gold_text: str, answer_text: str) -> bool:
    """Equal by math-verify, and for numbers also to 50 digits: it stops at 15."""
    from math_verify import verify

    gold, answer = read_latex(gold_text), read_latex(answer_text)
    if not gold or not answer or not verify(gold, answer, timeout_seconds=None):
        return False
    left, right = gold[0], answer[0]
    if getattr(left, "free_symbols", True) or getattr(right, "free_symbols", True):
        return True
    try:
        difference = abs((left - right).evalf(60, maxn=200))
        return bool(difference <= abs(left.evalf(60)) * 10**-45)
    except Exception:  # a relation or a boolean has no difference; math-verify's word stands
        return True


def _serve_child(requests: int, replies: int) -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    with os.fdopen(requests, "rb") as source, os.fdopen(replies, "wb") as sink:
        while (message := read_message(source)) is not None:
            try:
                verdict: bool | None = same(message["gold"], message["answer"])
            except (MemoryError, RecursionError):
                verdict = None
            except Exception:  # whatever a model's text does to the reader, it is not the gold answer
                verdict = False
            write_message(sink, {"same": verdict})


class Child:
    """A forked comparer and the pipes to it."""

    def __init__(self) -> None:
        request_read, request_write = os.pipe()
        reply_read, reply_write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.close(request_write)
                os.close(reply_read)
                _serve_child(request_read, reply_write)
            finally:
                os._exit(0)
        os.close(request_read)
        os.close(reply_write)
        self.requests, self.replies = os.fdopen(request_write, "wb"), os.fdopen(reply_read, "rb")

    def cpu_seconds(self) -> float:
        with open(f"/proc/{self.pid}/stat") as stat:
            fields = stat.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def compare(self, message: Any) -> bool | None:
        """The child's verdict; None when it passed a limit or died, and then it must be replaced."""
        wall = time.monotonic() + message["seconds"]
        cpu = self.cpu_seconds() + message["seconds"] * CPU_SHARE
        write_message(self.requests, message)
        while time.monotonic() < wall and self.cpu_seconds() < cpu:
            ready, _, _ = select.select([self.replies, sys.stdin.buffer], [], [], 0.05)
            if self.replies in ready:
                reply = read_message(self.replies)
                return None if reply is None else reply["same"]
            if ready:  # our own caller is gone
                self.kill()
                os._exit(0)
        return None

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self.requests.close()
        self.replies.close()


def _end_without_caller(*_: object) -> None:
    hung_up = select.poll()
    hung_up.register(sys.stdin, select.POLLHUP)
    if hung_up.poll(0):
        os._exit(0)


def main() -> None:
    import logging

    logging.disable(logging.CRITICAL)
    # A caller that goes during the seconds of importing must not leave us behind until they are over.
    signal.signal(signal.SIGALRM, _end_without_caller)
    signal.setitimer(signal.ITIMER_REAL, 0.2, 0.2)
    same(r"\sin (2 x)+\frac{1}{2}", r"2 \sin x \cos x+\frac{1}{2}")  # build the reader's tables once, before forking
    signal.setitimer(signal.ITIMER_REAL, 0)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # nothing here has any file to write
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    child = Child()
    write_message(sys.stdout.buffer, {"ready": True})
    while (message := read_message(sys.stdin.buffer)) is not None:
        verdict = child.compare(message)
        if verdict is None:
            child.kill()
            child = Child()
        write_message(sys.stdout.buffer, {"same": verdict})
    child.kill()


if __name__ == "__main__":
    main()
