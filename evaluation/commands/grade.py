"""evaluation.grade: grade stored samples, without an engine, and print what changed."""

import sys
from pathlib import Path

from tqdm import tqdm

from evaluation.command_line import OneLineParser
from evaluation.grading.grade_changes import change_lines
from evaluation.grading.graded_file import GradeError
from evaluation.grading.graded_folder import grade_folder
from evaluation.grading.graded_row import use_reward
from evaluation.scores.results import write_results


def main(argv: list[str] | None = None) -> int:
    """Grade; return 0, 1 if grading failed, or 2 for bad input."""
    description = "Grade stored samples: add missing verdicts, and make those of another grader again."
    parser = OneLineParser(prog="evaluation.grade", allow_abbrev=False, description=description)
    parser.add_argument("folder", type=Path, metavar="DIR", help="a run folder, or a folder of run folders")
    parser.add_argument("--all", action="store_true", help="make every verdict again, not only missing and old ones")
    parser.add_argument("--reward", type=Path, metavar="FILE.py", help="its reward_func decides what is right")
    args = parser.parse_args(argv)
    try:
        use_reward(args.reward)
        for folder in run_folders(args.folder):
            _grade_shown(folder, args.all)
        return 0
    except (ValueError, OSError) as error:
        print(f"evaluation.grade: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1


def run_folders(folder: Path) -> list[Path]:
    """The folder itself, or the run folders in it, sorted by name. GradeError if there is none."""
    if (folder / "settings.json").exists() or not folder.is_dir():
        return [folder]
    inside = sorted(path.parent for path in folder.glob("*/settings.json"))
    if not inside:
        raise GradeError(f"{folder} and the folders in it have no settings.json: give the --output of evaluation.run")
    return inside


def _grade_shown(folder: Path, regrade: bool) -> None:
    with tqdm(desc=f"grading {folder.name}", unit="sample", leave=False, disable=None) as bar:

        def progress(done: int, planned: int) -> None:
            bar.total = planned
            bar.update(done - bar.n)

        changes = grade_folder(folder, progress, regrade)
    print("\n".join(change_lines(folder, changes)))
    write_results(folder)
