"""Grade stored samples, without an engine. `python -m evaluation.grade DIR`: graded.jsonl and votes.json in step.

Missing verdicts are added, those of another grader are made anew and what changed is told.
"""

import argparse
import json
import sys
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NoReturn

from tqdm import tqdm

from evaluation.grading.grade_changes import Changes, changes_of, told
from evaluation.grading.graded_file import (
    GradedFile,
    GradeError,
    is_current,
    read_problems,
    read_samples,
    read_settings,
)
from evaluation.grading.graded_row import Key, Row, grader_version, key_of
from evaluation.grading.grading_pool import GradingError, GradingPool
from evaluation.grading.live_grader import LiveGrader
from evaluation.grading.votes import count_votes, digest_of
from evaluation.store import write_json

__all__ = ["Changes", "GradeError", "GradingError", "LiveGrader", "grade_folder", "main"]

Progress = Callable[[int, int], None]


def grade_folder(
    folder: Path, progress: Progress | None = None, regrade: bool = False, workers: int = 2, seconds: float = 30
) -> Changes:
    """Bring graded.jsonl and votes.json in step with samples.jsonl; `regrade` makes every verdict anew.

    progress(done, planned) is called in this thread. GradeError for a folder that cannot be graded, GradingError if
    grading processes do not start, OSError if the disk is full; graded.jsonl is whole in every case.
    """
    settings, problems = read_settings(folder), read_problems(folder)
    wanted = {key: row for key, row in problems.items() if key[0] in settings["benchmarks"]}
    order = {key: place for place, key in enumerate(wanted)}
    file = GradedFile(folder)
    try:
        with GradingPool(workers, seconds) as pool:
            rows, replaced, made = _verdicts(folder, settings, wanted, file, pool, regrade, progress)
            rows.sort(key=lambda row: (order[row["benchmark"], row["problem"]], row["sample"]))
            if list(file.rows.values()) != rows:
                file.rewrite(rows)
            _write_votes(folder, rows, pool)
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


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n")


def main(argv: list[str] | None = None) -> int:
    """0 graded, 1 grading failed, 2 bad input, 130 interrupted."""
    parser = _Parser(prog="evaluation.grade", allow_abbrev=False, description=__doc__)
    parser.add_argument("folder", type=Path, metavar="DIR", help="a run folder, or a folder of run folders")
    parser.add_argument("--workers", type=_positive, default=2, help="grading processes (%(default)s)")
    parser.add_argument("--seconds", type=_positive, default=30, help="for one sample (%(default)s)")
    parser.add_argument("--all", action="store_true", help="make every verdict anew, not only missing and old ones")
    args = parser.parse_args(argv)
    try:
        for folder in run_folders(args.folder):
            _grade_shown(folder, args.workers, args.seconds, args.all)
        return 0
    except (ValueError, OSError, GradingError) as error:
        print(f"evaluation.grade: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1
    except KeyboardInterrupt:
        print("evaluation.grade: error: interrupted; verdicts so far are kept", file=sys.stderr)
        return 130


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1, not {text!r}")
    return int(text)


def run_folders(folder: Path) -> list[Path]:
    """The folder itself, or the run folders in it, in the order of their names. GradeError if there is none."""
    if (folder / "settings.json").exists() or not folder.is_dir():
        return [folder]
    inside = sorted(path.parent for path in folder.glob("*/settings.json"))
    if not inside:
        raise GradeError(f"{folder} has no settings.json, nor has a folder in it: give the --output of evaluation.run")
    return inside


def _grade_shown(folder: Path, workers: int, seconds: float, regrade: bool) -> None:
    # Imported late: sampling needs this module without the metrics.
    from evaluation.scores.results import write_results

    with tqdm(desc=f"grading {folder.name}", unit="sample", leave=False, disable=None) as bar:

        def progress(done: int, planned: int) -> None:
            bar.total = planned
            bar.update(done - bar.n)

        changes = grade_folder(folder, progress, regrade, workers, seconds)
    print("\n".join(told(folder, changes)))
    write_results(folder)


if __name__ == "__main__":
    sys.exit(main())
