"""A language model small enough to enumerate: sums of two digits, answered in at most four tokens."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Qwen3Config, Qwen3ForCausalLM

EOS = 0
CHARACTERS = "0123456789+="
VOCABULARY = 1 + len(CHARACTERS)  # eos, digits, signs; the model may sample any of them
LENGTH = 4  # tokens of a reply, eos included
PROMPTS = ("7+8=", "9+4=", "6+6=")  # the measured ones
ARCHITECTURE = {
    "hidden_size": 24,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "max_position_embeddings": 16,
    "tie_word_embeddings": True,
    "initializer_range": 0.08,
}


def encode(text: str) -> list[int]:
    """Token ids of a text of CHARACTERS."""
    return [1 + CHARACTERS.index(character) for character in text]


def answer(prompt: str) -> list[int]:
    """The right reply, eos included."""
    first, second = prompt.rstrip("=").split("+")
    return [*encode(str(int(first) + int(second))), EOS]


def build(seed: int) -> Qwen3ForCausalLM:
    """A Qwen3 of 14 thousand parameters in float64, with attention that torch.func can differentiate."""
    torch.manual_seed(seed)
    config = Qwen3Config(vocab_size=VOCABULARY, pad_token_id=EOS, eos_token_id=EOS, bos_token_id=None, **ARCHITECTURE)
    config._attn_implementation = "eager"
    return Qwen3ForCausalLM(config).double().eval()


def warm_up(model: Qwen3ForCausalLM, steps: int, seed: int) -> None:
    """Train on right and wrong answers, so that RL has a choice to make."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(steps):
        rows, labels = [], []
        for first, second, shift in torch.randint(0, 10, (64, 3), generator=generator).tolist():
            question = encode(f"{first}+{second}=")
            total = first + second + (shift - 8 if shift > 6 else 0)  # two of ten answers are off by one
            reply = [*encode(str(max(total, 0))), EOS]
            row = question + reply
            rows.append(row + [EOS] * (8 - len(row)))
            labels.append([-100] * len(question) + reply + [-100] * (8 - len(row)))
        logits = model(torch.tensor(rows)).logits[:, :-1]
        loss = F.cross_entropy(logits.flatten(0, 1), torch.tensor(labels)[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def parameters_of(model: Qwen3ForCausalLM) -> dict[str, Tensor]:
    """A detached copy by name; tied weights are there once."""
    return {name: value.detach().clone() for name, value in model.named_parameters()}
