"""Seconds from the command to the first optimizer step on the CPU platform, run after run.

    Q=out/quickstart-rpg-reinforce-urkl
    python benchmarks/startup.py --model $Q/warm_up --data $Q/data/rl.jsonl --out startup.json

A run of one rollout each, of RPG (a policy, an engine, the trainer) and of GRPO, which starts a reference model too.
The first optimizer step is where the rollout's training began: the moment of its report, less training and sync.
OpenRLHF has no row: without this package's CPU platform it does not start here.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
METHODS = {"RPG": "rpg_reinforce_urkl", "GRPO": "grpo_as_released"}


def start(layer: str, model: Path, data: Path) -> dict[str, float]:
    """Seconds of one run, up to its first optimizer step and of the first rollout's own phases before it."""
    size = ROOT / "configs" / "debug" / "quickstart_cpu.yaml"
    with tempfile.TemporaryDirectory() as out:
        settings = {
            "config": f"{size},{ROOT / 'configs' / 'algorithm' / layer}.yaml",
            "platform": "cpu",
            "actor.model_name_or_path": model,
            "data.prompt_dataset": data,
            "train.max_rollouts": 1,
            "ckpt.output_dir": f"{out}/model",
        }
        options = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
        began = time.time()
        command = [sys.executable, "-m", "rpg_openrlhf.commands.train_rpg", *options]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        lines = (Path(out) / "model" / "logs" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    report = next(row for row in map(json.loads, lines) if row["kind"] == "train")
    step = report["time"] - report["timing/ppo_train"] - report["timing/broadcast"] - began
    work = report["timing/generation"] + report["timing/make_experience"]
    return {
        "start": step - work,
        "first rollout": work,
        "first optimizer step": step,
        "whole run": time.time() - began,
    }


def table(results: dict[str, list[dict[str, float]]]) -> str:
    """Markdown: medians, lowest and highest."""
    names = list(next(iter(results.values()))[0])
    lines = ["| s | runs | " + " | ".join(names) + " |", "|---" * (len(names) + 2) + "|"]
    for method, runs in results.items():
        columns = [[run[name] for run in runs] for name in names]
        cells = [f"{statistics.median(c):.1f} [{min(c):.1f}, {max(c):.1f}]" for c in columns]
        lines.append(f"| {method} | {len(runs)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run in turns, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description="Seconds from the command to the first optimizer step.")
    parser.add_argument("--model", type=Path, required=True, help="Hugging Face folder")
    parser.add_argument("--data", type=Path, required=True, help="JSONL with input and label")
    parser.add_argument("--out", type=Path, required=True, help="JSON to write")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each, in turns (%(default)s)")
    args = parser.parse_args()
    results: dict[str, list[dict[str, float]]] = {method: [] for method in METHODS}
    for _ in range(args.repeats):
        for method, layer in METHODS.items():
            results[method].append(start(layer, args.model, args.data))
    args.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(table(results))


if __name__ == "__main__":
    main()
