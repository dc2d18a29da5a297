"""README.md of a saved model: its origin, method and settings, in the Hugging Face hub's format."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import yaml
from huggingface_hub import ModelCard, ModelCardData

import rpg_openrlhf


def write(args: SimpleNamespace, rollouts: int) -> None:
    """Write the card into `--ckpt.output_dir`, where the model is. Settings are those of the run's config.yaml."""
    settings = yaml.safe_load(Path(args.logger.run_dir, "config.yaml").read_text(encoding="utf-8"))
    scores = last_scores(Path(args.logger.run_dir, "metrics.jsonl"))
    card(args, settings, scores, rollouts).save(Path(args.ckpt.output_dir, "README.md"))


def last_scores(metrics: Path) -> dict[str, float]:
    """Scores of the last evaluation during training; empty without one."""
    last: dict[str, float] = {}
    for line in metrics.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row.get("kind") == "eval":
            last = {name: value for name, value in row.items() if name.startswith("eval/") or name == "step"}
    return last


def card(args: SimpleNamespace, settings: dict, scores: dict[str, float], rollouts: int) -> ModelCard:
    """Build the card: a summary and scores, then every setting."""
    about = ModelCardData(
        base_model=args.actor.model_name_or_path, library_name="transformers", pipeline_tag="text-generation",
        tags=["reinforcement-learning", "rpg", args.logger.wandb.run_name],
    )  # fmt: skip
    versions = [f"{name} {number}" for name, number in args.ckpt.record["versions"].items() if name != "rpg_openrlhf"]
    lines = [
        f"# {args.logger.wandb.run_name}",
        f"Trained for {rollouts} rollouts with rpg_openrlhf {rpg_openrlhf.__version__} "
        "(Regularized Policy Gradient, arXiv 2505.17508).",
        "",
        f"- **Base model**: {args.actor.model_name_or_path}",
        f"- **Method**: {_method(args)}",
        f"- **Data**: {args.data.prompt_dataset}",
        f"- **Versions**: {', '.join(versions)}",
        "",
        *_table(scores),
        "## Settings",
        "",
        "```yaml",
        yaml.safe_dump(settings, sort_keys=False).rstrip(),
        "```",
        "",
    ]
    return ModelCard(f"---\n{about.to_yaml()}\n---\n\n" + "\n".join(lines))


def _method(args: SimpleNamespace) -> str:
    if args.algo.objective != "rpg":
        return f"OpenRLHF's {args.actor.policy_loss_type} loss, advantages by {args.algo.advantage.estimator}"
    rpg = args.rpg
    return f"RPG, {rpg.divergence}, {rpg.gradient_estimator}, beta {rpg.beta:g}, reference {args.ref.refresh}"


def _table(scores: dict[str, float]) -> list[str]:
    if not scores:
        return ["No evaluation was made during training; `python -m evaluation.run` gives scores with intervals.", ""]
    rows = [f"| {name.removeprefix('eval/')} | {value:.4g} |" for name, value in scores.items() if name != "step"]
    head = f"Evaluated during training, after rollout {scores['step']:g} (`python -m evaluation.run` gives intervals):"
    return [head, "", "| score | value |", "|---|---|", *rows, ""]
