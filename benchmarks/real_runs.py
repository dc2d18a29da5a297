"""Runs of the real command on the quickstart's task, in turns: start-up, methods, references, asynchronous, LoRA.

    Q=out/quickstart-rpg-reinforce-urkl
    python benchmarks/real_runs.py fast_path --model $Q/warm_up --data $Q/data/rl.jsonl --out fast_path.json

The first step of a run, which warms the engines, is dropped where steps are timed.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
URKL, GRPO = "rpg_reinforce_urkl", "grpo_as_released"
ROLLOUT = ["--rpg.old_policy", "rollout"]
AHEAD = ["--train.async_enable", "--train.async_queue_size", "1"]
FAST = {  # with learning rate 0 both policies, and so the length of replies, stay the same
    "OpenRLHF's GRPO, k3 to a fixed reference": [GRPO],
    "RPG, old_policy recompute": [URKL],
    "RPG, old_policy rollout": [URKL, *ROLLOUT],
}
PHASES = {"generate": "generation", "experience": "make_experience", "train": "ppo_train", "sync": "broadcast"}


class Run(NamedTuple):
    """A finished run: when it began and ended, by time.time(), and the reports of its steps."""

    began: float
    ended: float
    steps: list[dict]


def run(layer: str, flags: list[str], model: Path, data: Path, rollouts: int) -> Run:
    """Train for so many rollouts with a layer of configs/algorithm and flags."""
    layers = f"{ROOT / 'configs/algorithm' / layer}.yaml,{ROOT / 'configs/debug/quickstart_cpu.yaml'}"
    with tempfile.TemporaryDirectory() as out:
        settings = {
            "config": layers,
            "platform": "cpu",
            "actor.model_name_or_path": model,
            "data.prompt_dataset": data,
            "train.max_rollouts": rollouts,
            "ckpt.output_dir": f"{out}/model",
            "ckpt.save_steps": -1,
        }
        options = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
        began = time.time()
        command = [sys.executable, "-m", "rpg_openrlhf.commands.train_rpg", *options, *flags]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        ended = time.time()
        lines = (Path(out) / "model" / "logs" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return Run(began, ended, [report for report in map(json.loads, lines) if report["kind"] == "train"])


def spread(values: list[float], digits: int = 3) -> str:
    """Median, lowest and highest."""
    return f"{statistics.median(values):.{digits}f} [{min(values):.{digits}f}, {max(values):.{digits}f}]"


def start_up(runs: list[Run]) -> dict[str, str]:
    """Seconds to the first optimizer step: the moment of its report, less training and sync."""
    columns: dict[str, list[float]] = {"start": [], "first rollout": [], "first optimizer step": [], "whole run": []}
    for one in runs:
        first = one.steps[0]
        step = first["time"] - first["timing/ppo_train"] - first["timing/broadcast"] - one.began
        work = first["timing/generation"] + first["timing/make_experience"]
        for name, value in zip(columns, (step - work, work, step, one.ended - one.began), strict=True):
            columns[name].append(value)
    return {f"{name}, s": spread(values, 1) for name, values in columns.items()}


def steps_of(runs: list[Run]) -> list[dict]:
    """Steps of all runs but the first of each."""
    return [step for one in runs for step in one.steps[1:]]


def phases(runs: list[Run]) -> dict[str, str]:
    """Seconds of every phase and of the step."""
    steps = steps_of(runs)
    cells = {f"{name}, s": spread([s[f"timing/{key}"] for s in steps]) for name, key in PHASES.items()}
    return cells | {"step, s": spread([step["timing/step_total"] for step in steps])}


def reference(runs: list[Run]) -> dict[str, str]:
    """Refreshes of a mode of `--ref.refresh`, the KL it allowed, and its cost."""
    steps = [step for one in runs for step in one.steps]
    kl = [step["policy/kl_ref_k3"] for step in steps]
    moved = [step for step in steps if step.get("ref/refresh")]
    times = [1000 * step["timing/refresh"] for step in moved if "timing/refresh" in step]
    return {
        "refreshes": f"{len(moved) / len(runs):.0f}" if "ref/refresh" in steps[0] else "every rollout",
        "KL to reference, mean (max)": f"{statistics.mean(kl):.4f} ({max(kl):.4f})",
        "reward, last 4": f"{statistics.mean(s['reward'] for one in runs for s in one.steps[-4:]):+.3f}",
        "refresh, ms": f"{statistics.median(times):.0f}" if times else "-",
        "experience, s": spread([step["timing/make_experience"] for step in steps_of(runs)]),
    }


def throughput(runs: list[Run]) -> dict[str, str]:
    """Rollouts a minute, from the first report of a run to its last, and where the time went."""
    rates = [60 * (len(one.steps) - 1) / (one.steps[-1]["time"] - one.steps[0]["time"]) for one in runs]
    steps = steps_of(runs)
    names = {"optimizer steps, s": "timing/ppo_train", "staleness": "async/staleness"}
    names |= {"training waited, s": "async/training_waited", "engines waited, s": "async/engines_waited"}
    cells = {n: f"{statistics.median(s.get(key, 0.0) for s in steps):.2f}" for n, key in names.items()}
    return {"rollouts a minute": spread(rates, 1)} | cells


def syncs(runs: list[Run]) -> dict[str, str]:
    """Size and seconds of a weight sync, and the reward."""
    steps = steps_of(runs)
    return {
        "sync, MiB": f"{statistics.median(step['sync/mib'] for step in steps):.2f}",
        "sync, s": spread([step["timing/broadcast"] for step in steps]),
        "optimizer steps, s": spread([step["timing/ppo_train"] for step in steps]),
        "reward, last 4": f"{statistics.mean(s['reward'] for one in runs for s in one.steps[-4:]):+.3f}",
    }


class Part(NamedTuple):
    """Variants by name (a layer, then flags), what is said of their runs, rollouts a run, and flags of all."""

    variants: dict[str, list[str]]
    describe: Callable[[list[Run]], dict[str, str]]
    rollouts: int
    flags: tuple[str, ...] = ()


PARTS = {
    "start_up": Part({"RPG": [URKL], "GRPO, which starts a reference model": [GRPO]}, start_up, 1),
    "fast_path": Part(FAST, phases, 11, ("--actor.adam.lr", "0.0")),
    "references": Part(
        {
            "rollout": [URKL],
            "interval": [URKL, "--ref.refresh", "interval", "--ref.interval", "16"],
            "kl": [URKL, "--ref.refresh", "kl", "--ref.kl_target", "0.002", "--ref.kl_decay", "0.5"],
            "ema": [URKL, "--ref.refresh", "ema", "--ref.mix", "0.1"],
            "never": [URKL, "--ref.refresh", "never"],
        },
        reference,
        16,
        ("--rpg.beta", "0.1"),  # strong, so that the anchor is felt on this toy
    ),
    "asynchronous": Part(
        {
            "synchronous": [URKL, *ROLLOUT],
            "asynchronous": [URKL, *AHEAD],
            "asynchronous, partial rollouts": [URKL, *AHEAD, "--train.partial_rollout_enable"],
        },
        throughput,
        17,
    ),
    "lora": Part({"all weights": [URKL], "LoRA, rank 8": [URKL, "--ds.lora.rank", "8"]}, syncs, 9),
}


def table(results: dict[str, dict[str, str]]) -> str:
    """Markdown."""
    head = ["", *next(iter(results.values()))]
    rows = [[name, *cells.values()] for name, cells in results.items()]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])


def main() -> None:
    """Run in turns, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description="Runs of the real command, in turns.")
    parser.add_argument("part", choices=PARTS, help="what is compared")
    parser.add_argument("--model", type=Path, required=True, help="Hugging Face folder")
    parser.add_argument("--data", type=Path, required=True, help="JSONL with input and label")
    parser.add_argument("--out", type=Path, required=True, help="JSON to write")
    parser.add_argument("--rollouts", type=int, help="of a run (the part's own)")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each variant, in turns (%(default)s)")
    args = parser.parse_args()
    part = PARTS[args.part]
    runs: dict[str, list[Run]] = {name: [] for name in part.variants}
    for _ in range(args.repeats):
        for name, (layer, *flags) in part.variants.items():
            rollouts = args.rollouts or part.rollouts
            runs[name].append(run(layer, [*part.flags, *flags], args.model, args.data, rollouts))
            args.out.write_text(json.dumps(runs, indent=1) + "\n", encoding="utf-8")
    print(table({name: part.describe(found) for name, found in runs.items()}))


if __name__ == "__main__":
    main()
