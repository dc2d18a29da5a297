"""Stages `attention`, `optimizer` and `log_probs`: numerical comparisons with exact or reference results."""

from __future__ import annotations

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from rpg_openrlhf.check.stages import Failed
from rpg_openrlhf.deepspeed_states import problem_of_fused_adam
from rpg_openrlhf.objectives.log_probs import linear_log_probs_and_entropy
from rpg_openrlhf.settings.machine import has_flash_attn

VOCABULARY, HIDDEN = 128, 64


def tiny_config() -> Qwen3Config:
    """Config of a Qwen3 with a hundred thousand parameters."""
    return Qwen3Config(
        vocab_size=VOCABULARY, hidden_size=HIDDEN, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=32, max_position_embeddings=512, tie_word_embeddings=True, eos_token_id=0,
        bos_token_id=None, pad_token_id=0,
    )  # fmt: skip


def _device(platform: str) -> tuple[str, torch.dtype, float]:
    return ("cpu", torch.float32, 1e-4) if platform == "cpu" else ("cuda", torch.bfloat16, 5e-2)


@torch.no_grad()
def attention(platform: str) -> str:
    """Compare log-probs of two samples packed into one row with those of each alone, in every installed attention."""
    device, dtype, bound = _device(platform)
    kinds = ["sdpa"] + (["flash_attention_2"] if device == "cuda" and has_flash_attn() else [])
    says = []
    for kind in kinds:
        torch.manual_seed(0)
        config = tiny_config()
        config._attn_implementation = kind
        model = Qwen3ForCausalLM(config).to(device, dtype).eval()
        samples = [torch.randint(1, VOCABULARY, (1, length), device=device) for length in (37, 90)]
        alone = torch.cat([model(sample, use_cache=False).logits[0] for sample in samples]).float().log_softmax(-1)
        positions = torch.cat([torch.arange(sample.shape[1], device=device) for sample in samples])[None]
        together = model(torch.cat(samples, 1), position_ids=positions, use_cache=False)
        packed = together.logits[0].float().log_softmax(-1)
        off = float((alone - packed).abs().max())
        if not off < bound:
            raise Failed(
                f"{kind}: log-probs of packed samples are off by {off:.2g} (allowed {bound:g})",
                "use --ds.attn_implementation eager, or run without --ds.packing_samples",
            )
        says.append(f"{kind} within {off:.1g}")
    return ", ".join(says) + ("" if len(kinds) == 2 or platform == "cpu" else "; flash-attn is not installed")


def optimizer(platform: str) -> str:
    """Compare three steps of FusedAdam with torch's AdamW, or name the optimizer that a run uses instead."""
    if platform == "cpu":
        return "torch's AdamW"
    problem = problem_of_fused_adam()
    if problem:
        return f"torch's AdamW: FusedAdam cannot be built ({problem})"
    from deepspeed.ops.adam import FusedAdam

    torch.manual_seed(0)
    ours = torch.nn.Parameter(torch.randn(1000, device="cuda"))
    theirs = torch.nn.Parameter(ours.detach().clone())
    settings = {"lr": 1e-2, "betas": (0.9, 0.95), "weight_decay": 0.1}
    steppers = FusedAdam([ours], **settings), torch.optim.AdamW([theirs], **settings)
    for _ in range(3):
        gradient = torch.randn(1000, device="cuda")
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        for stepper in steppers:
            stepper.step()
    off = float((ours - theirs).abs().max())
    if not off < 1e-5:
        raise Failed(
            f"FusedAdam is off torch's AdamW by {off:.2g} after three steps", "rebuild DeepSpeed's extensions"
        )
    return f"FusedAdam, within {off:.1g} of torch's AdamW"


def log_probs(platform: str) -> str:
    """Compare linear_log_probs_and_entropy and its gradient, in float32 and bfloat16, with float64 logits."""
    device, says = _device(platform)[0], []
    for dtype, bound in ((torch.float32, 1e-4), (torch.bfloat16, 5e-2)):
        torch.manual_seed(0)
        hidden = torch.randn(64, HIDDEN, device=device).to(dtype).requires_grad_()
        weight = (torch.randn(1000, HIDDEN, device=device) / 8).to(dtype).requires_grad_()
        targets = torch.randint(0, 1000, (64,), device=device)
        log_probs, _ = linear_log_probs_and_entropy(hidden, weight, targets)
        log_probs.float().sum().backward()
        exact_hidden = hidden.detach().double().requires_grad_()
        exact = (exact_hidden @ weight.detach().double().T).log_softmax(-1).gather(-1, targets[:, None])[:, 0]
        exact.sum().backward()
        off = float((log_probs.double() - exact).abs().max())
        gradient = exact_hidden.grad
        slope = float((hidden.grad.double() - gradient).abs().max() / gradient.abs().max())
        if not (off < bound and slope < bound):
            raise Failed(
                f"{dtype}: log-probs are off by {off:.2g}, their gradient by {slope:.2g}",
                "use --actor.chunked_head off",
            )
        says.append(f"{str(dtype).removeprefix('torch.')} within {off:.1g}, gradient {slope:.1g}")
    return "; ".join(says)
