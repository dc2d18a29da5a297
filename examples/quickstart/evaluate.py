"""Accuracy of a checkpoint on held-out problems: one sample each at temperature 1, and one greedy reply.

python evaluate.py --model checkpoint --data data/heldout.jsonl --out before.json
"""

from __future__ import annotations

import os

# Set before torch and transformers load: no spinning threads on shared cores, no library chatter.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("DS_ACCELERATOR", "cpu")

import argparse
import json
import sys
import time
from pathlib import Path

import torch
from scipy.stats import binomtest
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from rpg_openrlhf.rewards.grading import grade


def read_rows(path: Path, limit: int | None) -> list[dict[str, str]]:
    """Rows of `input` and `label`; ValueError says which line lacks one."""
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            found = json.loads(line)
            rows.append({"input": found["input"], "label": found["label"]})
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"{path}:{number} is not a JSON object with `input` and `label`") from None
    if not rows:
        raise ValueError(f"{path} holds no problems")
    return rows[:limit]


@torch.inference_mode()
def respond(model, tokenizer, prompts: list[str], max_new_tokens: int, batch: int, sample: bool) -> list[str]:
    """One response to each prompt, without special tokens, in the given order."""
    # top_k and top_p are spelt out: a checkpoint's own generation config must not sharpen the distribution.
    how = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0} if sample else {"do_sample": False}
    responses: list[str] = []
    for start in range(0, len(prompts), batch):
        inputs = tokenizer(prompts[start : start + batch], return_tensors="pt", padding=True, add_special_tokens=False)
        inputs.pop("token_type_ids", None)
        tokens = model.generate(
            **inputs, **how, max_new_tokens=max_new_tokens, pad_token_id=tokenizer.pad_token_id, use_cache=True
        )
        new = tokens[:, inputs["input_ids"].shape[1] :]
        responses += tokenizer.batch_decode(new, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return responses


def summarize(responses: list[str], golds: list[str]) -> dict:
    """Accuracy with its Wilson 95 % interval, the mean length in characters, and the first five replies."""
    verdicts = [grade(response, gold) for response, gold in zip(responses, golds, strict=True)]
    correct = sum(verdict.is_correct for verdict in verdicts)
    interval = binomtest(correct, len(golds)).proportion_ci(confidence_level=0.95, method="wilson")
    reasons = [verdict.reason for verdict in verdicts]
    return {
        "accuracy": correct / len(golds),
        "interval": [float(interval.low), float(interval.high)],
        "correct": correct,
        "problems": len(golds),
        "reasons": {reason: reasons.count(reason) for reason in sorted(set(reasons))},
        "characters": sum(map(len, responses)) / len(responses),
        "examples": [
            {"response": response, "gold": gold, "reason": reason}
            for response, gold, reason in list(zip(responses, golds, reasons, strict=True))[:5]
        ],
    }


def evaluate(args: argparse.Namespace) -> dict:
    """Load, sample, grade."""
    rows = read_rows(args.data, args.limit)
    tokenizer = AutoTokenizer.from_pretrained(args.model, padding_side="left")
    # fp32 whatever the file holds: on a CPU it is as fast for so small a model, and weights in bf16 are kept exactly.
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    prompts, golds = [row["input"] for row in rows], [row["label"] for row in rows]
    if args.chat:
        prompts = [
            tokenizer.apply_chat_template([{"role": "user", "content": p}], tokenize=False, add_generation_prompt=True)
            for p in prompts
        ]
    result = {"model": str(args.model), "data": str(args.data), "seed": args.seed}
    for name, sample in (("sampled", True), ("greedy", False)):
        torch.manual_seed(args.seed)
        result[name] = summarize(respond(model, tokenizer, prompts, args.max_new_tokens, args.batch, sample), golds)
    return result


def positive(text: str) -> int:
    """An argparse type: a whole number above zero."""
    number = int(text) if text.isascii() and text.isdigit() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number above 0, not {text!r}")
    return number


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """The command line; a missing folder or file is refused in one line."""
    parser = argparse.ArgumentParser(description="Accuracy of a checkpoint on held-out problems, as JSON.")
    parser.add_argument("--model", type=Path, required=True, help="Hugging Face checkpoint folder")
    parser.add_argument("--data", type=Path, required=True, help="JSONL with `input` and `label`")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--seed", type=int, default=0, help="sampling seed (%(default)s)")
    parser.add_argument("--limit", type=positive, default=None, help="only the first so many problems")
    parser.add_argument("--batch", type=positive, default=256, help="problems at once (%(default)s)")
    parser.add_argument("--max_new_tokens", type=positive, default=64, help="tokens a reply may have (%(default)s)")
    parser.add_argument("--chat", action="store_true", help="put each prompt through the model's chat template")
    args = parser.parse_args(argv)
    if not (args.model / "config.json").is_file():
        parser.error(f"--model {args.model} is not a Hugging Face folder (no config.json)")
    if not args.data.is_file():
        parser.error(f"--data {args.data} does not exist")
    return args


def main(argv: list[str] | None = None) -> int:
    """Evaluate, write the JSON, print one line."""
    args, began = parse_args(argv), time.monotonic()
    disable_progress_bar()
    try:
        result = evaluate(args)
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    except (OSError, ValueError) as error:
        print(f"evaluate.py: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    sampled, greedy = result["sampled"], result["greedy"]
    low, high = sampled["interval"]
    print(
        f"held-out accuracy {sampled['accuracy']:.3f} [{low:.3f}, {high:.3f}] at temperature 1, "
        f"{greedy['accuracy']:.3f} greedy ({sampled['problems']} problems, {time.monotonic() - began:.0f} s)"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
