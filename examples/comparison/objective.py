"""Score of a trained model: accuracy, reward, KL of a reply to the start policy, and J = E[R] - beta KL.

Replies are sampled from the model itself at temperature 1. KL(policy || start) is taken over the whole vocabulary at
each token and summed over a reply, without the noise of the sampled tokens' log-ratios. All models are loaded into one
process, since starting vLLM for each would take longer than sampling.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # spinning threads would starve other runs
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else deepspeed, which transformers imports, warns of no GPU

import statistics
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from rpg_openrlhf.rewards.grading import grade

NEW_TOKENS = 64


@dataclass(frozen=True)
class Score:
    """Means over sampled replies. `reward` is 1 if right, else -1; `kl` is in nats per reply."""

    accuracy: float
    reward: float
    kl: float
    length: float

    def objective(self, beta: float) -> float:
        """Return J = E[R] - beta KL(policy || start), per reply."""
        return self.reward - beta * self.kl


def load(folder: Path) -> PreTrainedModel:
    """Load in float32, so that the KL is not due to rounding."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Load a tokenizer that pads prompts on the left."""
    return AutoTokenizer.from_pretrained(folder, padding_side="left")


@torch.inference_mode()
def score(
    policy: PreTrainedModel,
    start: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: list[dict[str, str]],
    samples: int,
    seed: int,
) -> Score:
    """Score `samples` replies to each of `rows`, which have a problem and an answer."""
    torch.manual_seed(seed)
    rows = rows * samples
    inputs = tokenizer([row["problem"] for row in rows], return_tensors="pt", padding=True, add_special_tokens=False)
    width = inputs["input_ids"].shape[1]
    options = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "max_new_tokens": NEW_TOKENS}
    tokens = policy.generate(**inputs, **options, pad_token_id=tokenizer.pad_token_id)
    replies = tokens[:, width:]
    ended = (replies == tokenizer.eos_token_id).cumsum(-1)
    mask = (ended == 0) | ((ended == 1) & (replies == tokenizer.eos_token_id))
    attention = torch.cat([inputs["attention_mask"], mask.long()], -1)
    kls = [
        kl_of_tokens(policy, start, part, seen, width)
        for part, seen in zip(tokens.split(250), attention.split(250), strict=True)
    ]
    texts = tokenizer.batch_decode(replies, skip_special_tokens=True)
    right = statistics.mean(grade(text, row["answer"]).is_correct for text, row in zip(texts, rows, strict=True))
    kl = (torch.cat(kls) * mask).sum(-1).mean().item()
    return Score(right, 2 * right - 1, kl, mask.sum(-1).double().mean().item())


def kl_of_tokens(
    policy: PreTrainedModel, start: PreTrainedModel, tokens: torch.Tensor, attention: torch.Tensor, width: int
) -> torch.Tensor:
    """KL(policy || start) over the vocabulary at each token after the first `width`: (B, T), nats."""
    logs = [
        model(tokens, attention_mask=attention).logits[:, width - 1 : -1].double().log_softmax(-1)
        for model in (policy, start)
    ]
    return (logs[0].exp() * (logs[0] - logs[1])).sum(-1)
