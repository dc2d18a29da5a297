"""Make the quickstart's policy: a tiny Qwen3 and its character tokenizer, warmed up on correct arithmetic.

Every reply in the warm-up is right: 45 % are worked and 55 % direct. The network learns to work a sum out, but cannot
learn to state a four-digit sum at once, so about 45 % of its answers are right at the start. RL has to find out which
format is rewarded.
"""

from __future__ import annotations

import os

# Set before torch loads: waiting OpenMP threads would spin and slow each other down on few cores.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else deepspeed, which transformers imports, warns of no GPU

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import torch
import torch.nn.functional as F
from arithmetic import direct_reply, worked_reply
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM
from transformers.utils.logging import disable_progress_bar

from rpg_openrlhf.problems.arithmetic import Problem, problems, prompt

PAD, EOS, UNK = "<pad>", "<eos>", "<unk>"
CHARACTERS = "\n +:=0123456789Answer"
SETTINGS_FILE = "warm_up.json"
BATCH, WORKED_SHARE, LEARNING_RATE, WARM_STEPS = 64, 0.45, 3e-3, 40
ARCHITECTURE = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 32,
    "max_position_embeddings": 256,
    # A small base separates neighbouring positions clearly: columns are learnt in far fewer steps.
    "rope_parameters": {"rope_type": "default", "rope_theta": 100.0},
    "tie_word_embeddings": True,
    "initializer_range": 0.06,
}


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token per character, one for all others; decode(encode(x)) == x for text of CHARACTERS."""
    vocabulary = {token: i for i, token in enumerate([PAD, EOS, UNK, *CHARACTERS])}
    # BPE without merges splits into characters and, unlike WordLevel, needs no pre-tokenizer for it.
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token=UNK))
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNK,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=ARCHITECTURE["max_position_embeddings"],
    )


def build_model(tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """A Qwen3 of 0.3 million parameters with fresh weights."""
    special = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    return Qwen3ForCausalLM(Qwen3Config(vocab_size=len(tokenizer), **special, **ARCHITECTURE))


def encode(
    tokenizer: PreTrainedTokenizerFast, chosen: list[Problem], reply: Callable[[Problem], str]
) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, T) tokens and labels, padded on the right; only the reply and its eos are learnt."""
    prompts = [tokenizer.encode(prompt(p), add_special_tokens=False) for p in chosen]
    replies = [[*tokenizer.encode(reply(p), add_special_tokens=False), tokenizer.eos_token_id] for p in chosen]
    longest = max(len(a) + len(b) for a, b in zip(prompts, replies, strict=True))
    tokens = torch.full((len(chosen), longest), tokenizer.pad_token_id)
    labels = torch.full_like(tokens, -100)
    for i, (question, answer) in enumerate(zip(prompts, replies, strict=True)):
        tokens[i, : len(question) + len(answer)] = torch.tensor(question + answer)
        labels[i, len(question) : len(question) + len(answer)] = torch.tensor(answer)
    return tokens, labels


def backward(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, stream: Iterator[Problem]) -> float:
    """Gradients of one batch's mean token loss.

    The two formats run in separate passes, each padded to its own length, in a fixed share, so that the start of RL
    does not depend on random draws.
    """
    worked = round(BATCH * WORKED_SHARE)
    groups = [
        encode(tokenizer, list(islice(stream, worked)), worked_reply),
        encode(tokenizer, list(islice(stream, BATCH - worked)), direct_reply),
    ]
    count, total = sum(int((labels >= 0).sum()) for _, labels in groups), 0.0
    for tokens, labels in groups:
        logits = model(input_ids=tokens).logits[:, :-1]
        loss = F.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), reduction="sum") / count
        loss.backward()
        total += loss.item()
    return total


def train(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, seed: int, steps: int) -> None:
    """AdamW with a linear rise and fall of the learning rate, in fp32."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.1)
    rise = min(WARM_STEPS, steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / rise, max(0.02, (steps - step) / max(1, steps - rise)))
    )
    stream, began = problems("warm_up", seed), time.monotonic()
    for step in range(1, steps + 1):
        loss = backward(model, tokenizer, stream)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % max(1, steps // 5) == 0:
            print(f"warm-up {step}/{steps}  loss {loss:.3f}  {time.monotonic() - began:.0f} s", flush=True)


def settings(seed: int, steps: int) -> dict:
    """Settings that decide the result; a folder made with equal ones is not made again."""
    training = {"batch": BATCH, "worked_share": WORKED_SHARE, "learning_rate": LEARNING_RATE, "rise": WARM_STEPS}
    return {"seed": seed, "steps": steps, "characters": CHARACTERS, **training, **ARCHITECTURE}


def is_complete(out: Path, wanted: dict) -> bool:
    """True if `out` was made with these settings; it appears by one rename, so it is complete if it exists."""
    try:
        return json.loads((out / SETTINGS_FILE).read_text(encoding="utf-8")) == wanted
    except (OSError, ValueError):
        return False


def save(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path, record: dict) -> None:
    """bf16 safetensors and tokenizer under a temporary name, then one rename."""
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.to(torch.bfloat16).save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    (partial / SETTINGS_FILE).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    shutil.rmtree(out, ignore_errors=True)
    partial.rename(out)


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """The command line, refused in one line if it cannot work."""
    parser = argparse.ArgumentParser(description="Warm up the quickstart's tiny policy; a finished folder is kept.")
    parser.add_argument("--out", type=Path, required=True, help="folder for the Hugging Face checkpoint (bf16)")
    parser.add_argument("--seed", type=int, default=0, help="weights and problems (%(default)s)")
    parser.add_argument("--steps", type=int, default=400, help="supervised steps of 64 sums (%(default)s)")
    args = parser.parse_args(argv)
    if not 1 <= args.steps <= 100_000:
        parser.error(f"--steps must be from 1 to 100000, not {args.steps}")
    if not 0 <= args.seed < 2**32:
        parser.error(f"--seed must be from 0 to {2**32 - 1}, not {args.seed}")
    if args.out.exists() and not (args.out / SETTINGS_FILE).is_file():
        parser.error(f"--out {args.out} exists and is not a folder this script made; it will not be replaced")
    return args


def main(argv: list[str] | None = None) -> int:
    """Build, train and save the policy, unless that was done before."""
    args = parse_args(argv)
    wanted = settings(args.seed, args.steps)
    if is_complete(args.out, wanted):
        print(f"warm-up: {args.out} already exists with the same settings")
        return 0
    disable_progress_bar()
    torch.manual_seed(args.seed)
    tokenizer = build_tokenizer()
    model = build_model(tokenizer)
    print(f"warm-up: {model.num_parameters():,} parameters, {torch.get_num_threads()} threads", flush=True)
    try:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        train(model, tokenizer, args.seed, args.steps)
        save(model, tokenizer, args.out, wanted)
    except OSError as error:
        print(f"warm_up.py: error: {error}", file=sys.stderr)
        return 1
    print(f"warm-up: saved to {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
