"""Grade the samples of a folder: graded.jsonl and votes.json in step with samples.jsonl.

Missing verdicts are added, those of another grader are made anew and what changed is told.
"""

import contextlib
import json
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from evaluation.grading.grade_changes import Changes, changes_of
from evaluation.grading.graded_file import GradedFile, is_current, read_problems, read_samples, read_settings
from evaluation.grading.graded_row import Key, Row, grader_version, key_of
from evaluation.grading.grading_pool import GradingPool
from evaluation.grading.votes import count_votes, digest_of
from evaluation.store import write_json

Progress = Callable[[int, int], None]


def grade_folder(
    folder: Path,
    progress: Progress | None = None,
    regrade: bool = False,
    workers: int = 2,
    seconds: float = 30,
    pool: GradingPool | None = None,
) -> Changes:
    """Bring graded.jsonl and votes.json in step with samples.jsonl; `regrade` makes every verdict anew.

    `pool` is used and left open, else one is made. progress(done, planned) is called in this thread. GradeError for a
    folder that cannot be graded, GradingError if grading processes do not start, OSError if the disk is full;
    graded.jsonl is whole in every case.
    """
    settings, problems = read_settings(folder), read_problems(folder)
    wanted = {key: row for key, row in problems.items() if key[0] in settings["benchmarks"]}
    order = {key: place for place, key in enumerate(wanted)}
    file = GradedFile(folder)
    try:
        with contextlib.nullcontext(pool) if pool else GradingPool(workers, seconds) as graders:
            rows, replaced, made = _verdicts(folder, settings, wanted, file, graders, regrade, progress)
            rows.sort(key=lambda row: (order[row["benchmark"], row["problem"]], row["sample"]))
            if list(file.rows.values()) != rows:
                file.rewrite(rows)
            _write_votes(folder, rows, graders)
    finally:
        file.close()
    return changes_of(folder, rows, replaced, made)


def _verdicts(
    folder: Path,
    settings: dict[str, Any],
    wanted: dict[tuple[str, str], Row],
    file: GradedFile,
    pool: GradingPool,
    regrade: bool,
    progress: Progress | None,
) -> tuple[list[Row], dict[Key, Row], int]:
    """A row for every sample, the rows that others take the place of, and how many were made now.

    New ones go to disk at once, in case of a kill; those that replace others only all together.
    """
    rows: list[Row] = []
    replaced: dict[Key, Row] = {}
    waiting: deque[Future[Row]] = deque()
    made = 0

    def take(until: int) -> None:
        while len(waiting) > until:
            row = waiting.popleft().result()
            if key_of(row) not in replaced:
                file.append(row)
            rows.append(row)
            if progress:
                progress(len(rows), settings["n"] * len(wanted))

    for sample in read_samples(folder, wanted, settings["n"]):
        key = key_of(sample)
        old = file.rows.get(key)
        if old is not None and not regrade and is_current(old, sample):
            rows.append(old)
            continue
        if old is not None:
            replaced[key] = old
        made += 1
        waiting.append(pool.submit(wanted[key[:2]], sample, settings["form"]))
        take(64 * pool.workers)
    take(0)
    return rows, replaced, made


def _write_votes(folder: Path, rows: list[Row], pool: GradingPool) -> None:
    path = folder / "votes.json"
    try:
        old = json.loads(path.read_bytes())
        if old["grader"] == grader_version() and old["verdicts"] == digest_of(rows):
            return
    except (OSError, ValueError, KeyError, TypeError):
        pass  # there are none yet, or they are counted anew
    write_json(path, count_votes(rows, pool))
