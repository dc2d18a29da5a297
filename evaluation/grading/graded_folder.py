"""Grade the samples of a folder: bring graded.jsonl and votes.json up to date with samples.jsonl.

Missing verdicts are added, those of another grader are made again, and changes are reported. Grading runs in this
process: a verdict takes about a millisecond, and the grader bounds its own work for any text.
"""

import json
from collections.abc import Callable
from pathlib import Path

from evaluation.grading.grade_changes import Changes, changes_of
from evaluation.grading.graded_file import (
    GradedFile,
    GradeError,
    is_current,
    read_problems,
    read_samples,
    read_settings,
)
from evaluation.grading.graded_row import Key, Row, foreign_reward, graded_row, grader_version, key_of
from evaluation.grading.votes import count_votes, digest_of
from evaluation.store import write_json

Progress = Callable[[int, int], None]


class SampleGrader:
    """Grades samples while more are drawn: verdicts are appended to graded.jsonl, which is locked until `close`."""

    def __init__(self, folder: Path):
        self._form = read_settings(folder)["form"]
        self._problems = read_problems(folder)
        self._file = GradedFile(folder)
        try:
            _refuse_foreign(folder, self._file)
        except GradeError:
            self._file.close()
            raise

    def put(self, sample: Row) -> None:
        """Grade one row of samples.jsonl, unless graded.jsonl has a current verdict. OSError if the disk is full."""
        row = self._file.rows.get(key_of(sample))
        if row is None or not is_current(row, sample):
            self._file.append(graded_row(self._problems[key_of(sample)[:2]], sample, self._form))

    def close(self) -> None:
        """Close and unlock graded.jsonl. May be called twice."""
        self._file.close()


def grade_folder(folder: Path, progress: Progress | None = None, regrade: bool = False) -> Changes:
    """Bring graded.jsonl and votes.json up to date with samples.jsonl; `regrade` makes every verdict again.

    progress(done, planned) is called after each sample. GradeError for a folder that cannot be graded, OSError if the
    disk is full; graded.jsonl stays valid in every case.
    """
    settings, problems = read_settings(folder), read_problems(folder)
    wanted = {key: row for key, row in problems.items() if key[0] in settings["benchmarks"]}
    order = {key: place for place, key in enumerate(wanted)}
    rows: list[Row] = []
    replaced: dict[Key, Row] = {}
    graded = 0
    file = GradedFile(folder)
    try:
        if not regrade:
            _refuse_foreign(folder, file)
        for sample in read_samples(folder, wanted, settings["n"]):
            key = key_of(sample)
            row = old = file.rows.get(key)
            if row is None or regrade or not is_current(row, sample):
                graded += 1
                row = graded_row(wanted[key[:2]], sample, settings["form"])
                if old is None:
                    file.append(row)  # to disk at once, in case of a kill
                else:
                    replaced[key] = old  # replacing rows are written together, below
            rows.append(row)
            if progress:
                progress(len(rows), settings["n"] * len(wanted))
        rows.sort(key=lambda row: (order[row["benchmark"], row["problem"]], row["sample"]))
        if list(file.rows.values()) != rows:
            file.rewrite(rows)
        _write_votes(folder, rows)
    finally:
        file.close()
    return changes_of(folder, rows, replaced, graded)


def _refuse_foreign(folder: Path, file: GradedFile) -> None:
    """GradeError if the folder has verdicts of a reward function other than the one in use."""
    foreign = foreign_reward(file.rows.values())
    if foreign:
        fix = "give --reward with that file, or grade again with evaluation.grade --all"
        raise GradeError(f"{folder} has verdicts of {foreign}: {fix}")


def _write_votes(folder: Path, rows: list[Row]) -> None:
    path = folder / "votes.json"
    try:
        old = json.loads(path.read_bytes())
        if old["grader"] == grader_version() and old["verdicts"] == digest_of(rows):
            return
    except (OSError, ValueError, KeyError, TypeError):
        pass  # no votes yet, or unreadable ones: count them
    write_json(path, count_votes(rows))
