"""Two LaTeX workers for the threads of this process: started when first asked, killed and replaced when they hang.

A worker is a fresh interpreter, never a fork of this process, which may hold torch, vLLM and their locks.
"""

import atexit
import importlib.util
import os
import select
import subprocess
import sys
import threading
import time
from collections import deque
from functools import lru_cache
from pathlib import Path

from rpg_openrlhf.rewards.latex_worker import read_message, write_message

MAX_WORKERS = 2
ANSWER_SECONDS = 5.0  # wall limit of one comparison, half of it CPU time
SHORTEST_SECONDS = 0.4  # under a flood of hostile answers the limit shrinks to this
FLOOD_WINDOW_SECONDS = 60.0
START_SECONDS = 90.0  # a cold import on a busy machine
QUEUE_SECONDS = 300.0

if importlib.util.find_spec("math_verify") is None:
    raise ImportError("grading needs math-verify: pip install 'math-verify[antlr4_13_2]==0.9.0'")


class _Worker:
    def __init__(self) -> None:
        script = Path(__file__).with_name("latex_worker.py")
        self.process = subprocess.Popen(
            [sys.executable, "-P", str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        self._receive(START_SECONDS)

    def _receive(self, seconds: float) -> dict:
        """The next message. TimeoutError after `seconds`, EOFError if the worker is gone."""
        stream = self.process.stdout
        assert stream is not None
        if not select.select([stream], [], [], seconds)[0]:
            self.close()
            raise TimeoutError
        message = read_message(stream)  # type: ignore[arg-type]
        if message is None:
            self.close()
            raise EOFError
        return message

    def compare(self, gold: str, answer: str, seconds: float) -> bool | None:
        stream = self.process.stdin
        assert stream is not None
        write_message(stream, {"gold": gold, "answer": answer, "seconds": seconds})  # type: ignore[arg-type]
        return self._receive(seconds + 10)["same"]

    def close(self) -> None:
        """Kill and reap. The worker's own child ends with it."""
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                try:
                    stream.close()
                except BrokenPipeError:
                    continue


class _Pool:
    def __init__(self) -> None:
        self.slots = threading.BoundedSemaphore(MAX_WORKERS)
        self.lock = threading.Lock()
        self.idle: list[_Worker] = []
        self.timeouts: deque[float] = deque(maxlen=64)

    def seconds(self) -> float:
        """The wall limit: halved for every timeout of the last minute, so that a flood cannot stall training."""
        now = time.monotonic()
        with self.lock:
            recent = sum(now - then < FLOOD_WINDOW_SECONDS for then in self.timeouts)
        return max(SHORTEST_SECONDS, ANSWER_SECONDS / 2 ** min(recent, 8))

    def compare(self, gold: str, answer: str) -> bool | None:
        if not self.slots.acquire(timeout=QUEUE_SECONDS):
            return None
        try:
            with self.lock:
                worker = self.idle.pop() if self.idle else None
            try:
                worker = worker or _Worker()
                verdict = worker.compare(gold, answer, self.seconds())
            except (OSError, EOFError, TimeoutError):  # the worker is gone; the next question starts another
                if worker is not None:
                    worker.close()
                return None
            with self.lock:
                self.idle.append(worker)
                if verdict is None:
                    self.timeouts.append(time.monotonic())
            return verdict
        finally:
            self.slots.release()

    def close(self) -> None:
        with self.lock:
            workers, self.idle = self.idle, []
        for worker in workers:
            worker.close()


_pool = _Pool()


def _forget() -> None:
    """In a forked child the workers belong to the parent."""
    global _pool
    _pool = _Pool()


os.register_at_fork(after_in_child=_forget)
atexit.register(lambda: _pool.close())


@lru_cache(maxsize=4096)
def _remembered(gold: str, answer: str) -> bool | None:
    return _pool.compare(gold, answer)


def same_latex(gold: str, answer: str) -> bool | None:
    """Are two LaTeX expressions equal? None if a limit on time or memory was passed. Callable from any thread."""
    return _remembered(gold, answer)


def close() -> None:
    """End the worker processes; they start again when they are needed."""
    _pool.close()
