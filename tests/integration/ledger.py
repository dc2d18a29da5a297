"""The ledger of prompts of an asynchronous run that is disturbed: each of an episode is drawn once for training.

python -m tests.integration.ledger --rollouts 200    dynamic sampling, a reward that fails at random, and kill -9
"""

import argparse
import json
import random
import sys
import tempfile
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path

import torch

from tests.integration import recorded_reward
from tests.integration.killer import PROCESSES, WRITING, Killed, rows, steps
from tests.tiny import make_tiny

PROMPTS, BATCH, GROUP = 48, 16, 4  # of the tiny problem set, of a rollout, samples a prompt
SAMPLES = BATCH * GROUP
Samples = list[tuple[str, float]]  # prompt and reward of each
FLAGS = [
    *("--train.async_enable", "--train.async_queue_size", "2", "--train.max_restarts", "99"),
    *("--ckpt.save_steps", "1", "--ckpt.max_num", "100000"),
]
DYNAMIC = [
    *("--algo.dynamic_filtering_enable", "--algo.dynamic_filtering_range", "0", "1"),
    *("--actor.adam.lr", "1e-6"),  # noise teaches nothing, and a policy with one reply left would fill no rollout
]


def problems_of(out: Path, rollouts: int) -> list[str]:
    """Return what does not add up in the checkpoints and the log of a run with a checkpoint for each rollout.

    A checkpoint holds the place in the data of the rollouts trained on: `position` prompts of its episode, after whole
    ones. Prompts drawn ahead are not in it. The log's share of groups that passed tells the prompts of each rollout.
    """
    places, problems = [0], []
    for step in range(1, rollouts + 1):
        folder = out / "checkpoints" / "_actor" / f"global_step{step}"
        (file,) = folder.glob("*model_states.pt")
        samples = torch.load(file, weights_only=False, mmap=True)["trainer"]["samples"]
        places.append(samples["episode"] * PROMPTS + samples["position"])
        if samples["draws"] != places[-1] or samples["_sample_buffer"]:
            problems.append(f"step {step}: {samples['draws']} draws, but {places[-1]} prompts were passed")
    trained = rows(out, "train")
    if [row["step"] for row in trained] != list(range(1, rollouts + 1)):
        return [*problems, f"steps of the log: {[row['step'] for row in trained]}"]
    for (before, after), row in zip(pairwise(places), trained, strict=True):
        drawn, begin = drawn_for(row), (after - 1) // PROMPTS * PROMPTS  # of the episode that the rollout ends in
        rest = begin - before if begin > before else 0  # prompts of earlier episodes, of which some were carried over
        if after != before + rest + drawn or rest < row["rollout/carried_prompts"]:
            problems.append(f"step {row['step']}: {drawn} prompts of {before} to {after} in the log: {row}")
    return problems


def drawn_for(row: dict) -> int:
    """Prompts that a rollout drew in its last episode, by the log."""
    return round((BATCH - row["rollout/carried_prompts"]) / row.get("dynamic_filtering_pass_rate", 100) * 100)


def drawings(out: Path, record: Path) -> tuple[dict[int, list[Samples]], int]:
    """Every drawing of each rollout, by its step, as the judge recorded it, and samples of unfinished ones.

    An engine draws one rollout after the other. Its first one follows the step that its start resumed from.
    """
    resumes = [(row["time"], int(row["step"])) for row in rows(out, "resume")]
    engines: dict[int, tuple[int, Samples]] = {}
    for line in record.read_text(encoding="utf-8").splitlines():
        when, process, prompt, reward = json.loads(line)
        start = max((step for began, step in resumes if began < when), default=0)
        engines.setdefault(process, (start, []))[1].append((prompt, reward))
    drawn, left = {}, 0
    for start, samples in engines.values():
        left += len(samples) % SAMPLES
        for number in range(len(samples) // SAMPLES):
            drawn.setdefault(start + 1 + number, []).append(samples[number * SAMPLES : (number + 1) * SAMPLES])
    return drawn, left


def problems_of_prompts(drawn: dict[int, list[Samples]], trained: list[dict]) -> list[str]:
    """Return what does not add up between the judge's record and the log, of a run without dynamic sampling.

    Every drawing of a rollout has the same prompts, the log has the rewards of the last one, and each episode of the
    log has each prompt once.
    """
    problems, episodes = [], {}
    for row in trained:
        step, samples = int(row["step"]), drawn[int(row["step"])]
        prompts = [Counter(prompt for prompt, _ in each) for each in samples]
        if any(each != prompts[0] for each in prompts) or set(prompts[0].values()) != {GROUP}:
            problems.append(f"step {step}: {len(prompts)} drawings differ, or not all prompts have {GROUP} samples")
        mean = sum(reward for _, reward in samples[-1]) / SAMPLES
        if abs(mean - row["rollout/reward_mean"]) > 1e-5 or row["rollout/num_samples"] != SAMPLES:
            problems.append(f"step {step}: the judge's mean is {mean}, and the log has {row}")
        episodes.setdefault((step - 1) * BATCH // PROMPTS, Counter()).update(prompts[0].keys())
    for number, times in episodes.items():
        if len(times) != PROMPTS or set(times.values()) != {1}:
            problems.append(f"episode {number + 1}: {len(times)} of {PROMPTS} prompts, {times.most_common(3)}")
    return problems


def main() -> int:
    """0 where the ledger adds up."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rollouts", type=int, default=200)
    parser.add_argument("--kill", nargs="*", choices=[WRITING, *PROCESSES], default=["an engine", "the supervisor"])
    parser.add_argument("--rate", type=float, default=5e-5, help="of rewards that fail (%(default)s)")
    chosen = parser.parse_args()
    chance, folder = random.Random(0), Path(tempfile.mkdtemp())
    judge = recorded_reward.install(folder, "parity_reward", rate=chosen.rate)
    flags = [*FLAGS, *DYNAMIC, "--train.num_episodes", str(chosen.rollouts)]
    flags += ["--train.max_rollouts", str(chosen.rollouts), "--reward.remote_url", str(judge)]
    run = Killed(*make_tiny(folder), folder / "run", flags)
    run.out.mkdir()
    began, failures = time.monotonic(), 0
    while run.run(chosen.kill[len(run.kills) :], chance, 7200):
        failures += 1
        print(f"ended after step {steps(run.out)} without a kill: the reward failed; started again", flush=True)
    problems = problems_of(run.out, chosen.rollouts)
    seconds = time.monotonic() - began
    print(f"{chosen.rollouts} rollouts in {seconds:.0f} s, {len(run.kills)} kills, {failures} failures")
    print(sums(run.out))
    print(*problems or [f"the ledger adds up  ({folder})"], sep="\n")
    return bool(problems)


def sums(out: Path) -> str:
    """Prompts of the whole run, by the log and the last checkpoint."""
    trained = rows(out, "train")
    (file,) = (out / "checkpoints" / "_actor" / f"global_step{len(trained)}").glob("*model_states.pt")
    draws = torch.load(file, weights_only=False, mmap=True)["trainer"]["samples"]["draws"]
    used, back = BATCH * len(trained), sum(int(row["rollout/given_back_prompts"]) for row in trained)
    resumes = ", ".join(f"{row['step']:.0f}" for row in rows(out, "resume"))
    return (
        f"{draws} prompts drawn: {used} trained on, {draws - used} dropped; {back} more were given back and drawn "
        f"again; resumed from steps {resumes}"
    )


if __name__ == "__main__":
    sys.exit(main())
