"""Rules on weights that cannot reach the vLLM engines, and the default transport for the others."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from rpg_openrlhf.errors import Refusal

BACKENDS = {"cuda": ("nccl",), "cpu": ("shm", "gloo", "nccl")}  # nccl is upstream's default: on the CPU, not chosen


def check(v: dict[str, Any], platform: str) -> None:
    """Refuse weights that engines cannot load, and ways that do not lead to them."""
    if v["ds.load_in_4bit"]:
        raise Refusal(
            "--ds.load_in_4bit: cannot be trained with vLLM rollouts: the engines hold 16-bit weights and cannot load "
            "packed ones; leave it out"
        )
    _check_lora(v)
    if v["vllm.sync_with_ray"]:
        raise Refusal("--vllm.sync_with_ray: weights do not travel by Ray's collectives here; leave it out")
    backend, known = v["vllm.sync_backend"], BACKENDS[platform]
    if backend not in known:
        mend = "use shm (one host) or gloo" if platform == "cpu" else "leave it out: NCCL, or CUDA IPC on shared GPUs"
        raise Refusal(f"--vllm.sync_backend {backend}: does not exist on the platform {platform}; {mend}")


def _check_lora(v: dict[str, Any]) -> None:
    if not v["ds.lora.rank"]:
        return
    if v["ds.tensor_parallel_size"] > 1:
        raise Refusal(
            f"--ds.tensor_parallel_size {v['ds.tensor_parallel_size']}: adapters are not merged over split weights; "
            "set 1, or leave --ds.lora.rank out"
        )
    if "lm_head" in (v["ds.lora.target_modules"] or ()):
        raise Refusal(
            "--ds.lora.target_modules lm_head: an adapter on the output layer is not merged into the engines' tied "
            "weights, and needs whole logits; leave it out"
        )
    if v["ref.model_name_or_path"]:
        raise Refusal(
            f"--ref.model_name_or_path {v['ref.model_name_or_path']}: with --ds.lora.rank the reference is the base "
            "model or an earlier adapter; leave it out"
        )


def settle(args: SimpleNamespace) -> None:
    """The way on the CPU platform, where the user names none."""
    if args.platform == "cpu" and args.vllm.sync_backend == "nccl":
        args.vllm.sync_backend = "shm"
