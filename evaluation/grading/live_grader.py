"""Grading beside sampling: samples go in as they are drawn, verdicts go to disk as they come."""

import threading
from concurrent.futures import Future
from pathlib import Path

from evaluation.grading.graded_file import GradedFile, is_current, read_problems, read_settings
from evaluation.grading.graded_row import Row, key_of
from evaluation.grading.grading_pool import GradingError, GradingPool


class LiveGrader:
    """Grades samples while others are drawn: `put` returns at once, verdicts are appended to graded.jsonl.

    The pool may be shared: it is the caller's to close.
    """

    def __init__(self, folder: Path, pool: GradingPool):
        self._form = read_settings(folder)["form"]
        self._problems = read_problems(folder)
        self._file = GradedFile(folder)
        self._pool = pool
        self._futures: set[Future[Row]] = set()  # not written yet
        self._lock = threading.Lock()
        self._written = threading.Condition(self._lock)
        self._error: BaseException | None = None
        self._is_open = True

    def __enter__(self) -> "LiveGrader":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.close() if kind is None else self.abandon()

    def put(self, sample: Row) -> None:
        """Grade one row of samples.jsonl. OSError or GradingError if an earlier one could not be graded or written."""
        if self._error:
            raise self._error
        row = self._file.rows.get(key_of(sample))
        if row is None or not is_current(row, sample):
            future = self._pool.submit(self._problems[key_of(sample)[:2]], sample, self._form)
            with self._lock:
                self._futures.add(future)
            future.add_done_callback(self._write)

    def _write(self, future: Future[Row]) -> None:
        """Called in a thread of the pool, where an exception would be lost."""
        with self._lock:
            self._futures.discard(future)
            if not future.cancelled() and self._is_open:
                try:
                    self._file.append(future.result())
                except (OSError, GradingError) as error:
                    self._error = self._error or error
            self._written.notify_all()

    def close(self) -> None:
        """Wait for every verdict. OSError or GradingError if one could not be had or written."""
        with self._lock:
            while self._futures:
                self._written.wait(1.0)
        self.abandon()
        if self._error:
            raise self._error

    def abandon(self) -> None:
        """End at once; what is not graded will be by the next `grade_folder`."""
        with self._lock:
            self._is_open = False
            self._file.close()
