"""Runs of the real command on the quickstart's task, in turns: start-up, methods, references, asynchronous, LoRA.

    Q=out/quickstart-rpg-reinforce-urkl
    python benchmarks/real_runs.py fast_path --model $Q/warm_up --data $Q/data/rl.jsonl --out fast_path.json

Timings of steps leave out the first step of a run, which warms the engines.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import harness
from harness import ROOT, Report, cells, table

URKL, GRPO = "rpg_reinforce_urkl", "grpo_as_released"
ROLLOUT = ["--rpg.old_policy", "rollout"]
AHEAD = ["--train.async_enable", "--train.async_queue_size", "1"]


def run(layer: str, flags: list[str], model: Path, data: Path, rollouts: int) -> dict:
    """Train for `rollouts` with a layer of configs/algorithm and flags -> durations and the steps' reports."""
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
        begin = time.time()
        command = [sys.executable, "-m", "rpg_openrlhf.commands.train_rpg", *options, *flags]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        end = time.time()
        lines = (Path(out) / "model" / "logs" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    steps = [report for report in map(json.loads, lines) if report["kind"] == "train"]
    first, last = steps[0], steps[-1]
    reached = first["time"] - first["timing/ppo_train"] - first["timing/broadcast"] - begin
    work = first["timing/generation"] + first["timing/make_experience"]
    return {
        "steps": steps, "start": reached - work, "first rollout": work, "first optimizer step": reached,
        "whole run": end - begin, "rollouts a minute": 60 * (len(steps) - 1) / ((last["time"] - first["time"]) or 1),
    }  # fmt: skip


def step_cells(runs: list[dict], keys: dict[str, str], digits: int = 3) -> dict[str, str]:
    """Spreads over all steps but the first of each run; async/ keys are 0 for a synchronous run."""
    absent = {key: 0.0 for key in keys.values() if key.startswith("async/")}
    return cells([absent | step for run in runs for step in run["steps"][1:]], keys, digits)


def start_up(runs: list[dict]) -> dict[str, str]:
    """Seconds to the first optimizer step: the time of its report minus training and sync."""
    names = ("start", "first rollout", "first optimizer step", "whole run")
    return cells(runs, {f"{name}, s": name for name in names}, 1)


def phases(runs: list[dict]) -> dict[str, str]:
    """Seconds of every phase and of the step."""
    names = {"generate": "generation", "experience": "make_experience", "train": "ppo_train", "sync": "broadcast"}
    return step_cells(runs, {f"{t}, s": f"timing/{key}" for t, key in {**names, "step": "step_total"}.items()})


def reference(runs: list[dict]) -> dict[str, str]:
    """Number of refreshes in a mode of `--ref.refresh`, KL to the reference, reward, and cost."""
    steps = [step for run in runs for step in run["steps"]]
    kl = [step["policy/kl_ref_k3"] for step in steps]
    refreshes = [step for step in steps if step.get("ref/refresh")]
    times = [1000 * step["timing/refresh"] for step in refreshes if "timing/refresh" in step]
    return {
        "refreshes": f"{len(refreshes) / len(runs):.0f}" if "ref/refresh" in steps[0] else "every rollout",
        "KL to reference, mean (max)": f"{statistics.mean(kl):.4f} ({max(kl):.4f})",
        "reward, last 4": last_reward(runs),
        "refresh, ms": f"{statistics.median(times):.0f}" if times else "-",
        **step_cells(runs, {"experience, s": "timing/make_experience"}),
    }


def throughput(runs: list[dict]) -> dict[str, str]:
    """Rollouts per minute between a run's first and last report, staleness, and where the time went."""
    keys = {"optimizer steps, s": "timing/ppo_train", "staleness": "async/staleness"}
    keys |= {"training waited, s": "async/training_waited", "engines waited, s": "async/engines_waited"}
    return cells(runs, {"rollouts a minute": "rollouts a minute"}, 1) | step_cells(runs, keys, 2)


def syncs(runs: list[dict]) -> dict[str, str]:
    """Size and seconds of a weight sync, and the reward."""
    keys = {"sync, MiB": "sync/mib", "sync, s": "timing/broadcast", "optimizer steps, s": "timing/ppo_train"}
    return step_cells(runs, keys) | {"reward, last 4": last_reward(runs)}


def last_reward(runs: list[dict]) -> str:
    """Mean reward of the last four rollouts of each run."""
    return f"{statistics.mean(step['reward'] for run in runs for step in run['steps'][-4:]):+.3f}"


class Part(NamedTuple):
    """One table: variants by name (a layer, then flags), cells of their runs, rollouts per run, common flags."""

    variants: dict[str, list[str]]
    describe: Callable[[list[dict]], dict[str, str]]
    rollouts: int
    flags: tuple[str, ...] = ()


FAST = {  # learning rate 0 keeps both policies, and so the length of replies, the same
    "OpenRLHF's GRPO, k3 to a fixed reference": [GRPO],
    "RPG, old_policy recompute": [URKL],
    "RPG, old_policy rollout": [URKL, *ROLLOUT],
}
REFERENCES = {
    "rollout": [URKL],
    "interval": [URKL, "--ref.refresh", "interval", "--ref.interval", "16"],
    "kl": [URKL, "--ref.refresh", "kl", "--ref.kl_target", "0.002", "--ref.kl_decay", "0.5"],
    "ema": [URKL, "--ref.refresh", "ema", "--ref.mix", "0.1"],
    "never": [URKL, "--ref.refresh", "never"],
}
ASYNCHRONOUS = {
    "synchronous": [URKL, *ROLLOUT],
    "asynchronous": [URKL, *AHEAD],
    "asynchronous, partial rollouts": [URKL, *AHEAD, "--train.partial_rollout_enable"],
}
PARTS = {
    "start_up": Part({"RPG": [URKL], "GRPO, which starts a reference model": [GRPO]}, start_up, 1),
    "fast_path": Part(FAST, phases, 11, ("--actor.adam.lr", "0.0")),
    "references": Part(REFERENCES, reference, 16, ("--rpg.beta", "0.1")),  # strong, so that the reference matters here
    "asynchronous": Part(ASYNCHRONOUS, throughput, 17),
    "lora": Part({"all weights": [URKL], "LoRA, rank 8": [URKL, "--ds.lora.rank", "8"]}, syncs, 9),
}


def main() -> None:
    """Run in turns, print the table, write the JSON."""
    parser = harness.flags(__doc__)
    parser.add_argument("part", choices=PARTS, help="comparison to run")
    parser.add_argument("--model", type=Path, required=True, help="Hugging Face folder")
    parser.add_argument("--data", type=Path, required=True, help="JSONL with input and label")
    parser.add_argument("--rollouts", type=int, help="rollouts of a run (default: the part's)")
    args = parser.parse_args()
    part, report = PARTS[args.part], Report(args)

    def train(layer: str, flags: list[str], turn: int) -> dict:
        return run(layer, [*part.flags, *flags], args.model, args.data, args.rollouts or part.rollouts)

    results = report.in_turns({name: partial(train, layer, flags) for name, (layer, *flags) in part.variants.items()})
    report.show(table({"": name, **part.describe(runs)} for name, runs in results.items()))


if __name__ == "__main__":
    main()
