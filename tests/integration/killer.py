"""Kill -9 whatever a run consists of, at moments that nobody chose, until it has been killed often enough.

python -m tests.integration.killer --kills 12 --seed 7      compares with an uninterrupted run, to the bit
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
import torch
from safetensors.torch import load_file

from tests.integration.conftest import base_flags, environment
from tests.tiny import make_tiny

# What each is called on the command line of its process.
PROCESSES = {
    "the supervisor": "rpg_openrlhf.commands.train_rpg",
    "the driver": "rpg_openrlhf.launch.attempt",
    "a policy rank": "PolicyActor",
    "an engine": "ray::RPGRolloutActor",
    "the trainer": "ray::RPGTrainer",
    "the queue of reports": "ray::_QueueActor",
    "the raylet": "raylet/raylet",
    "Ray's store": "gcs/gcs_server",
}
WRITING = "a policy rank while it writes a checkpoint"
CLOCKS = ("timing/", "tokens_per_second", "time")


class Killed:
    """A run that is killed again and again, and started again where that is the user's to do."""

    def __init__(self, model: Path, problems: Path, out: Path, flags: list[str], say: Callable[[str], None] = print):
        command = [sys.executable, "-m", "rpg_openrlhf.commands.train_rpg", *base_flags(model, problems, out), *flags]
        self.command, self.out, self.say = command, out, say
        self.kills: list[str] = []

    def run(self, victims: list[str], chance: random.Random, seconds: float, again: Sequence[str] = ()) -> int:
        """To its end, with a kill of each of `victims` on the way -> the last exit status. `again`: flags of a user
        who starts it again.
        """
        waiting, command, deadline = list(victims), self.command, time.monotonic() + seconds
        with (self.out / "console.txt").open("a", encoding="utf-8") as console:
            while True:
                process = subprocess.Popen(command, stdout=console, stderr=console, env=environment())
                while process.poll() is None:
                    assert time.monotonic() < deadline, f"not over after {seconds} s; {waiting} still to be killed"
                    if waiting and self._kill(waiting[0], process, chance):
                        self.kills.append(waiting.pop(0))
                    time.sleep(0.05)
                command = [*self.command, *again]
                if process.returncode != -9:
                    assert process.returncode or not waiting, (
                        f"it ended with {process.returncode} before {waiting} could be killed"
                    )
                    return process.returncode

    def _kill(self, victim: str, process: subprocess.Popen, chance: random.Random) -> bool:
        """Once it has taken a step since it was last started, at a moment of the next ones."""
        begun = steps(self.out)
        while process.poll() is None and steps(self.out) in (begun, 0):
            time.sleep(0.02)
        if victim != WRITING:
            time.sleep(chance.uniform(0, 1.5))  # within a step or two, however fast the machine is
        while victim == WRITING and process.poll() is None and not self._writes():
            time.sleep(0.001)
        for found in of_run(process):
            if is_a(found, "a policy rank" if victim == WRITING else victim):
                self.say(f"kill -9 {found.pid}, {victim}, after step {steps(self.out)}")
                found.kill()
                return True
        return False

    def _writes(self) -> bool:
        return (self.out / "checkpoints" / "_actor" / ".writing").exists()


def of_run(process: subprocess.Popen) -> list[psutil.Process]:
    try:
        root = psutil.Process(process.pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def is_a(process: psutil.Process, victim: str) -> bool:
    try:
        return PROCESSES[victim] in " ".join(process.cmdline())
    except psutil.Error:
        return False


def rows(out: Path, kind: str) -> list[dict]:
    """Reports of this kind in the log."""
    lines = (out / "logs" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [row for row in map(json.loads, lines) if row["kind"] == kind]


def steps(out: Path) -> int:
    """The last step of the log."""
    try:
        return max((int(row["step"]) for row in rows(out, "train")), default=0)
    except (OSError, ValueError):
        return 0


def numbers(out: Path) -> list[dict]:
    """What each step decided."""
    return [{k: v for k, v in row.items() if not k.startswith(CLOCKS)} for row in rows(out, "train")]


def weights_are_equal(one: Path, other: Path) -> bool:
    first, second = (load_file(out / "model" / "model.safetensors") for out in (one, other))
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


FLAGS = [
    *("--train.full_determinism_enable", "--train.num_episodes", "4", "--train.max_restarts", "99"),
    *("--ckpt.save_steps", "1", "--ckpt.max_num", "2"),
    *("--ref.refresh", "interval", "--ref.interval", "4", "--rpg.beta", "0.01"),
]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    chance = random.Random(chosen.seed)
    victims = [WRITING, *PROCESSES]
    victims = [victims[i % len(victims)] for i in range(chosen.kills)]
    chance.shuffle(victims)
    folder = Path(tempfile.mkdtemp())
    model, problems = make_tiny(folder)
    whole, killed = (Killed(model, problems, folder / name, FLAGS) for name in ("whole", "killed"))
    for run, kill in ((whole, []), (killed, victims)):
        run.out.mkdir()
        began = time.monotonic()
        print(f"status {run.run(kill, chance, 7200)} after {time.monotonic() - began:.0f} s, {len(run.kills)} kills")
    same = numbers(whole.out) == numbers(killed.out), weights_are_equal(whole.out, killed.out)
    print(f"{len(numbers(whole.out))} steps; every number equal: {same[0]}; weights equal: {same[1]}  ({folder})")
    return 0 if all(same) else 1


if __name__ == "__main__":
    sys.exit(main())
