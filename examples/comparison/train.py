"""Train every arm of the comparison with every seed, several side by side; the same command resumes.

    python -m examples.comparison.train --study objective --out out/compare --jobs 2 --seeds 12

All arms are trained with one seed before the next, so that the finished runs can be compared at any time.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from tqdm import tqdm

from examples.comparison.studies import STUDIES, Arm, Study
from rpg_openrlhf.errors import Refusal
from rpg_openrlhf.runs.lock import await_earlier

ROOT = Path(__file__).parents[2]
TASK = ROOT / "examples" / "quickstart"
INTERRUPTED = 130
LAYERS = ("hardware/cpu", "debug/quickstart_cpu")


@dataclass(frozen=True)
class Run:
    """One training of an arm. `value` is the study's setting; None if the arm does not have it."""

    study: Study
    arm: Arm
    value: float | None
    seed: int

    def folder(self, out: Path) -> Path:
        """Folder of the run in the study's folder."""
        value = "" if self.value is None else f"-{self.study.setting}{self.value:g}"
        return out / "runs" / f"{self.arm.slug}{value}-seed{self.seed}"

    def is_done(self, out: Path) -> bool:
        """True once its training has succeeded."""
        return (self.folder(out) / "done").exists()


def all_runs(study: Study, seeds: int) -> Iterator[Run]:
    """Every run of a study, sorted by seed, then value and arm."""
    for seed in range(1, seeds + 1):
        for value in (*study.values, None):
            yield from (Run(study, arm, value, seed) for arm in study.arms if value in study.values_of(arm))


def prepare(out: Path) -> None:
    """Make the model that all runs start from, and the problems."""
    if (out / "data" / "heldout.jsonl").exists():
        return
    out.mkdir(parents=True, exist_ok=True)
    for script, *flags in (
        ["warm_up.py", "--out", out / "warm_up", "--seed", 0, "--steps", 250],
        ["arithmetic.py", "--out", out / "data", "--rl", 4096, "--heldout", 250, "--seed", 0],
    ):
        subprocess.run([sys.executable, str(TASK / script), *map(str, flags)], check=True)


class Trainings:
    """Running trainings; `stop` ends them and prevents new ones."""

    def __init__(self) -> None:
        self._processes: set[subprocess.Popen] = set()
        self._lock, self._stopped = threading.Lock(), False

    def run(self, command: list[str], log: TextIO) -> int | None:
        """Run the command -> its exit status, or None if `stop` came first."""
        with self._lock:
            if self._stopped:
                return None
            process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
            self._processes.add(process)
        status = process.wait()
        with self._lock:
            self._processes.discard(process)
        return status

    def stop(self) -> None:
        """Send SIGTERM to every launcher, which then ends its run."""
        with self._lock:
            self._stopped = True
            for process in self._processes:
                process.terminate()


def train(run: Run, out: Path, trainings: Trainings) -> str | None:
    """Train one run from its start; return an error message, or None."""
    folder = run.folder(out)
    checkpoints = folder / "checkpoints"
    try:
        await_earlier(checkpoints)  # a run of a killed comparison may still be writing
    except Refusal as error:
        return f"{folder.name}: {error}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    settings = {
        "config": ",".join(
            str(ROOT / "configs" / f"{layer}.yaml") for layer in (*LAYERS, run.study.layer, run.arm.layer)
        ),
        "actor.model_name_or_path": out / "warm_up",
        "data.prompt_dataset": out / "data" / "rl.jsonl",
        "train.seed": run.seed,
        "ckpt.path": checkpoints,
        "ckpt.output_dir": folder / "model",
        "logger.run_dir": folder / "logs",
    }
    flags = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
    command = [sys.executable, "-m", *run.arm.module, *flags, *run.study.command(run.arm, run.value)]
    with (folder / "output.log").open("w", encoding="utf-8") as log:
        status = trainings.run(command, log)
    if status:
        return f"{folder.name}: status {status}; see {folder / 'output.log'}"
    if status == 0:
        shutil.rmtree(checkpoints, ignore_errors=True)
        (folder / "done").touch()
    return None


def add_study(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the study, its folder and its number of seeds."""
    parser.add_argument("--study", choices=STUDIES, default="objective", help="arms and setting (default objective)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the study")
    numbers = ", ".join(f"{name} {study.seeds}" for name, study in STUDIES.items())
    parser.add_argument("--seeds", type=int, help=f"seeds of each arm (default: {numbers})")


def main(argv: list[str] | None = None) -> int:
    """Train the missing runs; return 0 if all are done, 1 if one failed, 2 for bad input, 130 if interrupted."""
    parser = argparse.ArgumentParser(prog="train.py", description="Train every arm of the comparison.")
    add_study(parser)
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs side by side (default: the cores)")
    args = parser.parse_args(argv)
    study = STUDIES[args.study]
    seeds = study.seeds if args.seeds is None else args.seeds
    if args.jobs < 1 or seeds < 1:
        parser.error("--jobs and --seeds must be at least 1")
    out, trainings = args.out.resolve(), Trainings()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
    try:
        prepare(out)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"train.py: error: --out {args.out}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return INTERRUPTED
    missing, failures = [run for run in all_runs(study, seeds) if not run.is_done(out)], 0
    with ThreadPoolExecutor(args.jobs) as pool:
        try:
            runs = pool.map(lambda run: train(run, out, trainings), missing)
            for failure in tqdm(runs, total=len(missing), desc="runs", unit="run", mininterval=10):
                if failure:
                    failures += 1
                    tqdm.write(failure, file=sys.stderr)
        except KeyboardInterrupt:
            trainings.stop()
            print("interrupted; the same command resumes", file=sys.stderr)
            return INTERRUPTED
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
