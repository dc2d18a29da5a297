"""Reward and KL to the start of every run's last model, measured alike for all methods.

    python kl_tradeoff.py --runs kl --start warm_up --data data/heldout.jsonl --beta 0.2      (in out/compare)

The trainers log different estimators of the KL, so none of them is used: replies are sampled from each model, and at
every one of their tokens KL(policy || start) and KL(start || policy) are summed over the whole vocabulary, exactly.
Prints a Markdown table, mean over seeds, and writes kl_tradeoff.md and .json beside the runs.
"""

from __future__ import annotations

import os

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("DS_ACCELERATOR", "cpu")  # transformers imports deepspeed, which else warns of no GPU

import argparse
import json
import re
import statistics
import sys
from collections import defaultdict
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from rpg_openrlhf.rewards.grading import grade

NAMES = {
    "rkl": "RPG-RKL (exact per token)", "urkl": "RPG-URKL (exact per token)",
    "k1": "k1 loss", "k2": "k2 loss", "k3": "k3 loss",
}  # fmt: skip
COLUMNS = ("accuracy", "reward", "kl", "reverse_kl", "kl_reply", "objective", "length")
HEADS = (
    "accuracy", "reward", "KL(policy, start) a token", "KL(start, policy) a token", "KL a reply",
    "reward − β KL a reply", "tokens",
)  # fmt: skip


def sample(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[str]) -> tuple[torch.Tensor, int]:
    """(B, T) prompts, padded on the left, and replies at temperature 1; the prompts' length."""
    inputs = tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False)
    options = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "max_new_tokens": 64}
    tokens = model.generate(**inputs, **options, pad_token_id=tokenizer.pad_token_id)
    return tokens, inputs["input_ids"].shape[1]


def measure(
    policy: PreTrainedModel, start: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: list[dict], beta: float
) -> dict[str, float]:
    """Accuracy, reward, KL both ways a token, KL a reply, E[R] - beta KL a reply, tokens a reply."""
    tokens, width = sample(policy, tokenizer, [row["problem"] for row in rows])
    mask = torch.ones_like(tokens)
    mask[:, :width] = (tokens[:, :width] != tokenizer.pad_token_id).long()
    logs = [
        model(tokens, attention_mask=mask).logits[:, width - 1 : -1].double().log_softmax(-1)
        for model in (policy, start)
    ]
    reply = tokens[:, width:]
    ended = (reply == tokenizer.eos_token_id).long().cumsum(-1)
    counted = ((ended == 0) | ((reply == tokenizer.eos_token_id) & (ended == 1))).double()
    forward = (logs[0].exp() * (logs[0] - logs[1])).sum(-1) * counted
    backward = (logs[1].exp() * (logs[1] - logs[0])).sum(-1) * counted
    texts = tokenizer.batch_decode(reply, skip_special_tokens=True)
    right = statistics.mean(grade(text, row["answer"]).is_correct for text, row in zip(texts, rows, strict=True))
    kl, length = (forward.sum() / counted.sum()).item(), counted.sum(-1).mean().item()
    kl_reply = forward.sum(-1).mean().item()  # what the losses penalize is the KL of a reply, the sum over its tokens
    reward = 2 * right - 1
    return {
        "accuracy": right, "reward": reward, "kl": kl, "reverse_kl": (backward.sum() / counted.sum()).item(),
        "kl_reply": kl_reply, "objective": reward - beta * kl_reply, "length": length,
    }  # fmt: skip


def load(folder: Path) -> PreTrainedModel:
    """Load in float32, so that the KL is not one of rounding."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def table(found: dict[str, list[dict[str, float]]]) -> str:
    """Markdown: means over seeds, with the standard deviation where there are several."""
    lines = ["| method | runs | " + " | ".join(HEADS) + " |", "|---" * (len(HEADS) + 2) + "|"]
    for name, runs in found.items():
        cells = []
        for column in COLUMNS:
            values = [run[column] for run in runs]
            spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.3f}{spread}")
        lines.append(f"| {name} | {len(runs)} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> int:
    """Measure every run below --runs that has a model."""
    parser = argparse.ArgumentParser(description="Reward and exact KL to the start of each run's last model.")
    parser.add_argument("--runs", type=Path, required=True, help="folder of METHOD-seedN folders")
    parser.add_argument("--start", type=Path, required=True, help="the model they began from")
    parser.add_argument("--data", type=Path, required=True, help="JSONL with problem and answer")
    parser.add_argument("--beta", type=float, required=True, help="the coefficient they were trained with")
    args = parser.parse_args(argv)
    folders = [path for path in sorted(args.runs.glob("*-seed*")) if (path / "model" / "config.json").is_file()]
    if not folders:
        print(f"kl_tradeoff.py: error: --runs {args.runs}: no METHOD-seedN/model below it", file=sys.stderr)
        return 2
    rows = [json.loads(line) for line in args.data.read_text(encoding="utf-8").splitlines()]
    tokenizer = AutoTokenizer.from_pretrained(args.start)
    tokenizer.padding_side = "left"
    start, results = load(args.start), defaultdict(list)
    torch.manual_seed(0)
    with torch.inference_mode():
        results["the start"].append(measure(start, start, tokenizer, rows * 2, args.beta))
        for folder in folders:
            method = re.sub(r"-seed\d+$", "", folder.name)
            results[NAMES.get(method, method)].append(
                measure(load(folder / "model"), start, tokenizer, rows * 2, args.beta)
            )
    text = table(results)
    (args.runs / "kl_tradeoff.md").write_text(text, encoding="utf-8")
    (args.runs / "kl_tradeoff.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
