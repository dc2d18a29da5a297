"""Train every arm of the comparison with every seed, several side by side; the same command again goes on.

    python -m examples.comparison.train --out out/compare --jobs 2 --seeds 12

A seed of every arm comes before the next seed, so that what is there can be compared at any time.
"""

import argparse
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from examples.comparison.arms import ARMS, BETAS, SEEDS, Arm

ROOT = Path(__file__).parents[2]
TASK = ROOT / "examples" / "quickstart"
LAYERS = ("hardware/cpu", "debug/quickstart_cpu", "debug/compare_cpu")


@dataclass(frozen=True)
class Run:
    """One training of an arm. `beta` is None where the arm has no KL."""

    arm: Arm
    beta: float | None
    seed: int

    def folder(self, out: Path) -> Path:
        """Its folder below the comparison's."""
        beta = "" if self.beta is None else f"-beta{self.beta:g}"
        return out / "runs" / f"{self.arm.slug}{beta}-seed{self.seed}"

    def is_done(self, out: Path) -> bool:
        """Whether its training ended well."""
        return (self.folder(out) / "done").exists()


def all_runs(seeds: int) -> Iterator[Run]:
    """Every run, a seed of each arm before the next."""
    for seed in range(1, seeds + 1):
        for beta in BETAS:
            yield from (Run(arm, beta, seed) for arm in ARMS if arm.penalty)
        yield from (Run(arm, None, seed) for arm in ARMS if not arm.penalty)


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


def train(run: Run, out: Path, processes: set[subprocess.Popen], stopped: threading.Event) -> str | None:
    """Train one run from its start; returns what went wrong."""
    if stopped.is_set():
        return "stopped"
    folder = run.folder(out)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    config = ",".join(str(ROOT / "configs" / f"{layer}.yaml") for layer in (*LAYERS, run.arm.layer))
    command = [sys.executable, "-m", "rpg_openrlhf.commands.train_rpg", "--config", config]
    command += [
        "--actor.model_name_or_path",
        str(out / "warm_up"),
        "--data.prompt_dataset",
        str(out / "data/rl.jsonl"),
    ]
    command += ["--train.seed", str(run.seed), "--ckpt.path", str(folder / "checkpoints")]
    command += ["--ckpt.output_dir", str(folder / "model"), "--logger.run_dir", str(folder / "logs")]
    with (folder / "output.log").open("w", encoding="utf-8") as log:
        process = subprocess.Popen([*command, *run.arm.command(run.beta)], cwd=ROOT, stdout=log, stderr=log)
        processes.add(process)
        status = process.wait()
        processes.discard(process)
    if status:
        return f"{folder.name}: status {status}; see {folder / 'output.log'}"
    (folder / "done").touch()
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return None


def main(argv: list[str] | None = None) -> int:
    """Train what is missing: 0 when all is there, 1 when a run failed, 130 when interrupted."""
    parser = argparse.ArgumentParser(prog="train.py", description="Train every arm of the comparison.")
    parser.add_argument("--out", type=Path, required=True, help="folder of the comparison")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs side by side (default: the cores)")
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"seeds of each arm (default {SEEDS})")
    args = parser.parse_args(argv)
    if args.jobs < 1 or args.seeds < 1:
        parser.error("--jobs and --seeds must be at least 1")
    out = args.out.resolve()
    prepare(out)
    missing = [run for run in all_runs(args.seeds) if not run.is_done(out)]
    processes: set[subprocess.Popen] = set()
    stopped, failures = threading.Event(), []
    with ThreadPoolExecutor(args.jobs) as pool:
        try:
            runs = pool.map(lambda run: train(run, out, processes, stopped), missing)
            for failure in tqdm(runs, total=len(missing), desc="runs", unit="run", mininterval=10):
                if failure:
                    failures.append(failure)
                    tqdm.write(failure, file=sys.stderr)
        except KeyboardInterrupt:
            stopped.set()
            for process in list(processes):
                process.terminate()
            print("interrupted; the same command again goes on", file=sys.stderr)
            return 130
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
