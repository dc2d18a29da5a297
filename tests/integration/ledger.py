"""The ledger of prompts of an asynchronous run that is disturbed: each of an episode is trained on once.

python -m tests.integration.ledger --rollouts 200 --kills 5      a reward that fails at random, and kill -9
"""

import argparse
import json
import random
import sys
import tempfile
import time
from pathlib import Path

import torch

from tests.integration.killer import PROCESSES, WRITING, Killed, steps
from tests.tiny import make_tiny

PROMPTS, BATCH = 48, 16  # of the tiny problem set, and of a rollout
FAILING = """
import os, random, time
from tests.integration.digit_reward import reward_func as judge

chance = random.Random(os.getpid() + time.time_ns())

def reward_func(queries, prompts, labels):
    if chance.random() < {rate}:
        raise RuntimeError("the judge is out")
    return judge(queries, prompts, labels)
"""
FLAGS = [
    *("--train.async_enable", "--train.async_queue_size", "2", "--train.max_restarts", "99"),
    *("--ckpt.save_steps", "1", "--ckpt.max_num", "100000"),
]


def problems_of(out: Path, rollouts: int) -> list[str]:
    """What does not add up in the checkpoints of a run with one for each rollout; nothing where all does.

    The place in the data that a checkpoint holds is that of the rollouts trained on: `position` prompts of its
    episode, after whole ones. What was drawn ahead is not in it.
    """
    found = []
    for step in range(1, rollouts + 1):
        folder = out / "checkpoints" / "_actor" / f"global_step{step}"
        (file,) = folder.glob("*model_states.pt")
        held = torch.load(file, weights_only=False, mmap=True)["trainer"]["samples"]
        place = held["episode"] * PROMPTS + held["position"]
        if not held["draws"] == place == step * BATCH or held["_sample_buffer"]:
            found.append(f"step {step}: {held['draws']} draws, {place} prompts passed, {step * BATCH} trained on")
    rows = [json.loads(line) for line in (out / "logs" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    numbers = [row["step"] for row in rows if row["kind"] == "train"]
    if numbers != list(range(1, rollouts + 1)):
        found.append(f"steps of the log: {numbers}")
    return found


def main() -> int:
    """0 where the ledger adds up."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rollouts", type=int, default=200)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--rate", type=float, default=5e-5, help="of rewards that fail (%(default)s)")
    chosen = parser.parse_args()
    chance, folder = random.Random(0), Path(tempfile.mkdtemp())
    judge = folder / "failing_reward.py"
    judge.write_text(FAILING.format(rate=chosen.rate), encoding="utf-8")
    flags = [*FLAGS, "--train.num_episodes", str(-(-chosen.rollouts * BATCH // PROMPTS))]
    flags += ["--train.max_rollouts", str(chosen.rollouts), "--reward.remote_url", str(judge)]
    run = Killed(*make_tiny(folder), folder / "run", flags)
    run.out.mkdir()
    waiting = [[WRITING, *PROCESSES][number % (len(PROCESSES) + 1)] for number in range(chosen.kills)]
    began, failures = time.monotonic(), 0
    while run.run(waiting[len(run.kills) :], chance, 3600):
        failures += 1
        print(f"ended after step {steps(run.out)} without a kill: the reward failed; started again", flush=True)
    problems = problems_of(run.out, chosen.rollouts)
    print(
        f"{chosen.rollouts} rollouts in {time.monotonic() - began:.0f} s, {len(run.kills)} kills, {failures} failures"
    )
    print(*problems or [f"every prompt of every episode was trained on once  ({folder})"], sep="\n")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
