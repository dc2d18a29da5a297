"""RPG's fast path against OpenRLHF's GRPO, as shipped, on the same work: seconds per step, split by phase.

    Q=out/quickstart-rpg-reinforce-urkl
    python benchmarks/fast_path.py --model $Q/warm_up --data $Q/data/rl.jsonl --out bench.json

RPG with `--rpg.old_policy rollout` makes no forward pass between generating and training and holds no reference model;
GRPO recomputes the old log-probs and asks a fixed reference for its own. Runs alternate; the first step of each, which
warms the engines, is dropped. Learning rate 0 keeps both policies, and so the length of replies, the same throughout.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
PHASES = {"generate": "generation", "experience": "make_experience", "train": "ppo_train", "sync": "broadcast"}
METHODS = {
    "RPG fast path": ["rpg_reinforce_urkl", "--rpg.old_policy", "rollout"],
    "RPG recompute": ["rpg_reinforce_urkl"],
    "OpenRLHF GRPO": ["grpo_as_released"],
}


def steps_of(layer: str, flags: list[str], model: Path, data: Path, steps: int) -> list[dict]:
    """The reports of one run without its first step."""
    size = ROOT / "configs" / "debug" / "quickstart_cpu.yaml"
    with tempfile.TemporaryDirectory() as out:
        settings = {
            "config": f"{ROOT / 'configs' / 'algorithm' / layer}.yaml,{size}",
            "platform": "cpu",
            "actor.model_name_or_path": model,
            "data.prompt_dataset": data,
            "data.max_samples": 32 * (steps + 1),
            "actor.adam.lr": 0.0,
            "ckpt.output_dir": f"{out}/model",
            "ckpt.path": f"{out}/checkpoints",
            "logger.run_dir": f"{out}/logs",
        }
        options = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
        command = [sys.executable, "-m", "rpg_openrlhf.commands.train_rpg", *options, *flags]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        lines = (Path(out) / "logs" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [report for report in map(json.loads, lines) if report["kind"] == "train"][1:]


def summarize(reports: list[dict]) -> dict[str, dict[str, float]]:
    """Median and quartiles of every phase and of the step, in seconds."""
    rows = {name: [r[f"timing/{key}"] for r in reports] for name, key in PHASES.items()}
    rows["step"] = [r["timing/step_total"] for r in reports]
    cuts = {name: statistics.quantiles(values, n=4) for name, values in rows.items()}
    return {name: {"median": q2, "q1": q1, "q3": q3} for name, (q1, q2, q3) in cuts.items()}


def table(results: dict[str, dict]) -> str:
    """Markdown: medians with quartiles, and the step's ratio to GRPO."""
    names = [*PHASES, "step"]
    base = results["OpenRLHF GRPO"]["step"]["median"]
    lines = ["| s per step | " + " | ".join(names) + " | step / GRPO |", "|---" * (len(names) + 2) + "|"]
    for method, phases in results.items():
        cells = ["{median:.3f} [{q1:.3f}, {q3:.3f}]".format(**phases[name]) for name in names]
        lines.append(f"| {method} | " + " | ".join(cells) + f" | {phases['step']['median'] / base:.2f} |")
    return "\n".join(lines)


def main() -> None:
    """Run, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description="Seconds per step of RPG's fast path and OpenRLHF's GRPO.")
    parser.add_argument("--model", type=Path, required=True, help="Hugging Face folder")
    parser.add_argument("--data", type=Path, required=True, help="JSONL with input and label")
    parser.add_argument("--out", type=Path, required=True, help="JSON to write")
    parser.add_argument("--steps", type=int, default=10, help="measured steps a run (%(default)s)")
    parser.add_argument("--repeats", type=int, default=2, help="runs of each method, alternating (%(default)s)")
    args = parser.parse_args()
    reports: dict[str, list[dict]] = {method: [] for method in METHODS}
    for _ in range(args.repeats):
        for method, (layer, *flags) in METHODS.items():
            reports[method] += steps_of(layer, flags, args.model, args.data, args.steps)
    results = {method: summarize(found) for method, found in reports.items()}
    args.out.write_text(json.dumps({"steps": args.steps * args.repeats, "results": results}, indent=1) + "\n")
    print(table(results))


if __name__ == "__main__":
    main()
