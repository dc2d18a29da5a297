"""One run of the quickstart task per mode of `--ref.refresh`: KL to the reference, KL to the start policy, cost.

    Q=out/quickstart-rpg-reinforce-urkl
    python benchmarks/reference_modes.py --model $Q/warm_up --data $Q/data/rl.jsonl --out modes.json \\
        --png docs/reference_modes.png

KL to the start policy is measured here alone: the policy's actors hold its weights a second time, and every rollout is
asked of both, which doubles the forward passes.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
MODES = {
    "rollout": [],
    "interval": ["--ref.interval", "16"],
    "kl": ["--ref.kl_target", "0.002", "--ref.kl_decay", "0.5"],
    "ema": ["--ref.mix", "0.1"],
    "never": [],
}
COLORS = {"rollout": "#6b7280", "interval": "#2166ac", "kl": "#d9741a", "ema": "#3a8f5c", "never": "#7b5aa6"}
TRAIN = "--train-as-the-launcher"


def train(argv: list[str]) -> int:
    """The launcher, with `bench/kl_to_start` in every step's report."""
    from rpg_openrlhf import cpu_platform

    cpu_platform.install()  # before openrlhf is imported
    import ray
    import torch
    from openrlhf.cli import train_ppo_ray
    from openrlhf.trainer import ppo_trainer

    from rpg_openrlhf.commands import train_rpg
    from rpg_openrlhf.launch import install
    from rpg_openrlhf.reference.weights import ReferenceWeights
    from rpg_openrlhf.training.actors import RPGPolicyActor
    from rpg_openrlhf.training.experience import mean_kl_to_reference
    from rpg_openrlhf.training.trainer import RPGTrainer

    class KeepsTheStart(RPGPolicyActor):
        def init_model_from_pretrained(self, *args, **kwargs):
            super().init_model_from_pretrained(*args, **kwargs)
            self.start = ReferenceWeights(self.actor.model, offload=False, mixed=False)

        def execute_batch(self, method_name, all_data, start_idx, end_idx):
            if method_name != "start_forward":
                return super().execute_batch(method_name, all_data, start_idx, end_idx)
            with self.start.in_place():
                return super().execute_batch("forward", all_data, start_idx, end_idx)

    class MeasuresKLToStart(RPGTrainer):
        def train_step(self, rollout_samples, global_step):
            made = self.experience_maker.split_rollout_samples(rollout_samples)
            names = ("sequences", "action_mask", "attention_mask")
            inputs = {name: [getattr(sample, name) for sample in made] for name in names}
            for method, field in (("forward", "action_log_probs"), ("start_forward", "base_action_log_probs")):
                found = ray.get(self.actor_model_group.async_run_method_batch(method, **inputs))
                for sample, log_probs in zip(made, [each for rank in found for each in rank], strict=True):
                    setattr(sample, field, log_probs)
            with torch.no_grad():
                kl = mean_kl_to_reference(made)
            status, global_step = super().train_step(rollout_samples, global_step)
            return {**status, "bench/kl_to_start": kl}, global_step

    original = install.install

    def install_ours(args, progress):
        original(args, progress)
        train_ppo_ray.PolicyModelActor = ray.remote(num_gpus=1)(KeepsTheStart)
        ppo_trainer.PPOTrainer = ray.remote(MeasuresKLToStart)

    install.install = install_ours
    return train_rpg.main(argv)


def run(mode: str, flags: list[str], args: argparse.Namespace) -> list[dict]:
    """The reports of one run's steps."""
    layers = f"{ROOT / 'configs/algorithm/rpg_reinforce_urkl.yaml'},{ROOT / 'configs/debug/quickstart_cpu.yaml'}"
    with tempfile.TemporaryDirectory() as out:
        settings = {
            "config": layers,
            "platform": "cpu",
            "actor.model_name_or_path": args.model,
            "data.prompt_dataset": args.data,
            "data.max_samples": 32 * args.steps,
            "rpg.beta": args.beta,
            "ref.refresh": mode,
            "ckpt.output_dir": f"{out}/model",
            "ckpt.path": f"{out}/checkpoints",
            "logger.run_dir": f"{out}/logs",
        }
        options = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
        subprocess.run([sys.executable, __file__, TRAIN, *options, *flags], check=True)
        lines = (Path(out) / "logs" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [report for report in map(json.loads, lines) if report["kind"] == "train"]


def table(results: dict[str, list[dict]], target: float) -> str:
    """Markdown: what each mode did, and what it cost."""
    head = [
        "mode",
        "refreshes",
        "KL to reference, mean (max)",
        f"steps with average > {target:g}",
        "KL to start, last 8",
    ]
    head += ["reward, last 4", "refresh, ms", "experience, s a step"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for mode, steps in results.items():
        kl = [step["policy/kl_ref_k3"] for step in steps]
        averages = [step["ref/kl_average"] for step in steps if "ref/kl_average" in step]
        above = f"{sum(a > target for a in averages)} of {len(averages)}" if averages else "-"
        moved = sum(step.get("ref/refresh", 0) for step in steps)
        times = [1000 * step["timing/refresh"] for step in steps if "timing/refresh" in step]
        experience = statistics.median(step["timing/make_experience"] for step in steps[1:])
        cells = [mode, f"{moved:.0f}" if mode != "rollout" else "every rollout"]
        cells += [
            f"{statistics.mean(kl):.4f} ({max(kl):.4f})",
            above,
            f"{statistics.mean(step['bench/kl_to_start'] for step in steps[-8:]):.4f}",
        ]
        cells += [f"{statistics.mean(step['reward'] for step in steps[-4:]):+.3f}"]
        cells += [f"{statistics.median(times):.0f}" if times else "-", f"{experience:.2f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(results: dict[str, list[dict]], target: float, png: Path) -> None:
    """KL to the reference on the left, a mark at each refresh; KL to the start policy on the right."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.6), layout="constrained", sharex=True)
    for mode, steps in results.items():
        numbers, color = [step["step"] for step in steps], COLORS[mode]
        kl = [max(step["policy/kl_ref_k3"], 1e-6) for step in steps]
        left.plot(numbers, kl, color=color, label=mode, linewidth=1.8)
        moved = [i for i, step in enumerate(steps) if step.get("ref/refresh") and mode != "ema"]
        left.plot([numbers[i] for i in moved], [kl[i] for i in moved], "v", color=color, markersize=8)
        right.plot(numbers, [step["bench/kl_to_start"] for step in steps], color=color, label=mode, linewidth=1.8)
    left.axhline(target, color=COLORS["kl"], linestyle=":", linewidth=1.2)
    last = max(len(steps) for steps in results.values())
    left.annotate(
        "target of kl", (last, target), (0, 4), textcoords="offset points", ha="right", color=COLORS["kl"], fontsize=9
    )
    left.set(title="KL to the reference, mean of a rollout (triangle: then it moved)", yscale="log", xlabel="RL step")
    right.set(title="KL to the start policy, before a rollout's first step", ylim=(0, None), xlabel="RL step")
    for axes in (left, right):
        axes.set_ylabel("nats per token")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#e5e7eb")
        axes.legend(frameon=False, ncols=5, loc="upper center", bbox_to_anchor=(0.5, -0.12))
    figure.savefig(png, dpi=110)


def main() -> None:
    """Run what is missing, print the table, draw."""
    parser = argparse.ArgumentParser(description="One run of the quickstart task per mode of --ref.refresh.")
    parser.add_argument("--model", type=Path, help="Hugging Face folder")
    parser.add_argument("--data", type=Path, help="JSONL with input and label")
    parser.add_argument(
        "--out", type=Path, required=True, help="JSON of all modes; one that is in it is not run again"
    )
    parser.add_argument("--png", type=Path, help="figure to write")
    parser.add_argument("--steps", type=int, default=16, help="rollouts a run (%(default)s)")
    parser.add_argument("--beta", type=float, default=0.1, help="strength of the KL (%(default)s)")
    parser.add_argument("--modes", nargs="*", choices=MODES, default=list(MODES), help="to run; none: only report")
    args = parser.parse_args()
    results = json.loads(args.out.read_text()) if args.out.exists() else {}
    for mode in args.modes:
        if mode not in results:
            results[mode] = run(mode, MODES[mode], args)
            args.out.write_text(json.dumps(results) + "\n")
    results = {mode: results[mode] for mode in MODES if mode in results}
    target = float(MODES["kl"][1])
    print(table(results, target))
    if args.png:
        draw(results, target, args.png)


if __name__ == "__main__":
    if sys.argv[1:2] == [TRAIN]:
        sys.exit(train(sys.argv[2:]))
    main()
