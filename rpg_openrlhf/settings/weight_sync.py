"""How weights get from the policy to the vLLM engines: what cannot get there, and by which way the rest goes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from rpg_openrlhf.errors import Refusal

BACKENDS = {"cuda": ("nccl",), "cpu": ("shm", "gloo", "nccl")}  # nccl is upstream's default: on the CPU, not chosen


def check(v: dict[str, Any], platform: str) -> None:
    """Refuse weights that engines cannot load, and ways that do not lead to them."""
    for name, reason in (
        ("ds.lora.rank", "the engines load whole weights, and adapters are not merged into them"),
        ("ds.load_in_4bit", "the engines hold 16-bit weights and cannot load packed ones"),
    ):
        if v[name]:
            shown = "" if v[name] is True else f" {v[name]}"
            raise Refusal(f"--{name}{shown}: cannot be trained with vLLM rollouts: {reason}; leave it out")
    if v["vllm.sync_with_ray"]:
        raise Refusal("--vllm.sync_with_ray: weights do not travel by Ray's collectives here; leave it out")
    backend, known = v["vllm.sync_backend"], BACKENDS[platform]
    if backend not in known:
        mend = "use shm (one host) or gloo" if platform == "cpu" else "leave it out: NCCL, or CUDA IPC on shared GPUs"
        raise Refusal(f"--vllm.sync_backend {backend}: does not exist on the platform {platform}; {mend}")


def settle(args: SimpleNamespace) -> None:
    """The way on the CPU platform, where the user names none."""
    if args.platform == "cpu" and args.vllm.sync_backend == "nccl":
        args.vllm.sync_backend = "shm"
