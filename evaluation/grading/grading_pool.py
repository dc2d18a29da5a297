"""Grading in processes that may be killed: a deadline for each task, a memory cap for each process, and no hang.

Hostile text costs its own sample (`timeout`), never the run. Workers are spawned, not forked: the caller may hold
threads and an engine. Each worker's LaTeX processes end with it: they live on a pipe whose other end it holds.
One thread, the keeper, starts all workers: there no Ctrl-C can come between a worker's birth and its first orders.
"""

import contextlib
import multiprocessing
import os
import resource
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError, Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import resource_tracker
from typing import Any

from pebble import ProcessPool

from evaluation.grading.graded_row import Row, graded_row, undecided_row
from evaluation.grading.strict import form_of

MAX_TRIES = 4  # of a task under which the whole pool broke; the death of its own worker is a verdict at once
START_SECONDS = 120.0  # a cold worker on a busy machine


class GradingError(RuntimeError):
    """Graders cannot be started, in one line."""


@dataclass(eq=False)
class _Task:
    function: Callable[..., Any]
    arguments: tuple
    otherwise: Any
    future: Future
    tries: int = 0
    given: float = 0.0
    inner: Future | None = None  # what the present pool answers with


class GradingPool:
    """`workers` processes of at most `memory_bytes` each; `seconds` for one task, counted from when it starts."""

    def __init__(self, workers: int, seconds: float = 30, memory_bytes: int = 2 << 30):
        self.workers, self.seconds, self.memory_bytes = workers, seconds, memory_bytes
        self._changed = threading.Condition(threading.RLock())  # everything below is read and written under it
        self._waiting: deque[_Task] = deque()
        self._running: set[_Task] = set()
        self._pool: ProcessPool | None = None
        self._has_worked = False
        self._unresolved = 0
        self._is_closed = False
        self._keeper: threading.Thread | None = None
        self._endings: list[threading.Thread] = []  # of pools that broke

    def __enter__(self) -> "GradingPool":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.close() if kind is None else self.abandon()

    def submit(self, problem: Mapping[str, Any], sample: Mapping[str, Any], style: str) -> Future[Row]:
        """The graded row of a sample, some time later. Only GradingError is ever raised, by the future."""
        needed = {name: problem.get(name) for name in ("gold", "golds", "tolerance")}
        return self.run(graded_row, needed, dict(sample), form_of(style), otherwise=undecided_row(sample))

    def run(self, function: Callable[..., Any], *arguments: Any, otherwise: Any) -> Future:
        """A module-level function's result, or `otherwise` if it passed a limit, raised or took its process down."""
        task = _Task(function, arguments, otherwise, Future())
        with self._changed:
            if self._is_closed:
                raise GradingError("the grading pool is closed")
            self._waiting.append(task)
            self._unresolved += 1
            self.start()
        return task.future

    def start(self) -> None:
        """Have the workers up before there is work."""
        with self._changed:
            if self._keeper is None:
                self._keeper = threading.Thread(target=self._keep, daemon=True)
                self._keeper.start()
            self._changed.notify_all()

    def wait(self) -> None:
        """Until every future has its result, and has told whoever wanted to know."""
        with self._changed:
            while self._unresolved > 0:
                self._changed.wait(1.0)

    def close(self) -> None:
        """Finish everything, then end the workers."""
        self.wait()
        self.abandon()

    def abandon(self) -> None:
        """End the workers now; what is not done is cancelled."""
        with self._changed:
            self._is_closed = True
            left = [*self._waiting, *self._running]
            self._waiting.clear()
            self._running.clear()
            self._unresolved = 0
            self._changed.notify_all()
        for task in left:
            task.future.cancel()
        if self._keeper is not None:
            self._keeper.join()
        for ending in self._endings:
            ending.join()

    def _keep(self) -> None:
        """The keeper: workers as long as the pool is open, tasks for them, and their end.

        Ctrl-C is for the caller alone, also where a terminal sends it to the whole group: workers inherit the mask.
        """
        resource_tracker.ensure_running()  # the first process would start it, and then let Ctrl-C through again
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        patience = 4 * self.seconds + START_SECONDS
        with self._changed:
            while not self._is_closed:
                # The last resort, should a killed worker have taken a lock of the pool with it.
                if any(time.monotonic() - task.given > patience for task in self._running):
                    self._replace_pool()
                self._feed()
                self._changed.wait(1.0)
            pool, self._pool = self._pool, None
        if pool is not None:
            _end(pool)

    def _feed(self) -> None:
        """Keep a few tasks in the workers' pipe, and no more: what a broken pool holds must be given to the next."""
        try:
            pool = self._live_pool()
            while self._waiting and len(self._running) < 3 * self.workers:
                task = self._waiting.popleft()
                task.given = time.monotonic()
                self._running.add(task)
                task.inner = inner = pool.schedule(task.function, task.arguments, timeout=self.seconds)
                inner.add_done_callback(lambda inner, task=task: self._settle(task, inner))
        except (RuntimeError, OSError):  # it broke since the last task, or there is nothing to start it with
            if self._waiting and not self._running:
                self._running.add(self._waiting.popleft())  # so that somebody counts the tries
            self._replace_pool()

    def _live_pool(self) -> ProcessPool:
        if self._pool is None:
            context = multiprocessing.get_context("spawn")
            limits = (self.memory_bytes, os.getpid())
            self._pool = ProcessPool(self.workers, initializer=_prepare, initargs=limits, context=context)
        if not self._pool.active:  # starts it, where it is new
            raise RuntimeError
        return self._pool

    def _settle(self, task: _Task, inner: Future) -> None:
        error = CancelledError() if inner.cancelled() else inner.exception()
        with self._changed:
            if task not in self._running or task.inner is not inner:
                return  # abandoned, or given to a later pool, which the end of an earlier one must not break
            if isinstance(error, BrokenProcessPool | CancelledError):
                self._replace_pool()
            else:
                self._running.discard(task)
                self._has_worked = True
            self._changed.notify_all()
        if not isinstance(error, BrokenProcessPool | CancelledError):
            self._resolve(task, error, inner)

    def _resolve(self, task: _Task, error: BaseException | None, inner: Future | None = None) -> None:
        if error is not None and not isinstance(error, TimeoutError | MemoryError | RecursionError | OSError):
            _complain(error)
        if task.future.set_running_or_notify_cancel():
            if isinstance(error, GradingError):
                task.future.set_exception(error)
            else:
                task.future.set_result(task.otherwise if error is not None or inner is None else inner.result())
        with self._changed:
            self._unresolved -= 1
            self._changed.notify_all()

    def _replace_pool(self) -> None:
        """Another pool for the tasks that the broken one held; those that were in too many are given up."""
        broken, self._pool = self._pool, None
        if broken is not None:
            # A pool's own threads call this, and they cannot wait for their own end.
            self._endings.append(threading.Thread(target=_end, args=(broken,), daemon=True))
            self._endings[-1].start()
        held = sorted(self._running, key=lambda task: task.given)
        self._running.clear()
        for task in held:
            task.tries += 1
        kept = [task for task in held if task.tries < MAX_TRIES]
        self._waiting.extendleft(reversed(kept))
        failed = [task for task in held if task.tries >= MAX_TRIES]
        error: BaseException = TimeoutError()
        if failed and not self._has_worked:
            error = GradingError(
                f"grading processes do not start ({self.workers} of {self.memory_bytes >> 20} MiB): "
                "give the machine more memory, or fewer --workers"
            )
            failed += self._waiting
            self._waiting.clear()
        for task in failed:
            self._resolve(task, error)


def _end(pool: ProcessPool) -> None:
    with contextlib.suppress(Exception):  # a broken pool may fail to end in any way; its processes watch us themselves
        pool.stop()
        pool.join()


def _complain(error: BaseException) -> None:
    if not isinstance(error, GradingError):
        text = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        print(f"evaluation: a grading process failed on one sample ({text}): counted as timeout", file=sys.stderr)


def _prepare(memory_bytes: int, parent: int) -> None:
    """In a new worker: its limits, its end with the caller's, and its LaTeX reader, for which no deadline pays."""
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # The soft limit only: the LaTeX processes set their own.
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, resource.getrlimit(resource.RLIMIT_AS)[1]))
    graded_row({"gold": "\\frac{1}{1+x}"}, _WARM_UP, "answer")


_WARM_UP = {
    "benchmark": "", "problem": "", "sample": 0, "text": "Answer: $\\frac{\\sin x}{\\sin x+\\cos x}$",
    "tokens": 0, "finish_reason": "stop",
}  # fmt: skip


def _end_with(parent: int) -> None:
    """A killed caller cannot end its workers."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)
