"""Rules on weights that cannot reach the vLLM engines, and the default transport for the others."""

from __future__ import annotations

import importlib.util
from types import SimpleNamespace
from typing import Any

from rpg_openrlhf.errors import Refusal

BACKENDS = {"cuda": ("nccl",), "cpu": ("shm", "gloo", "nccl")}  # nccl is upstream's default: on the CPU, not chosen


def check(flags: dict[str, Any], platform: str) -> None:
    """Refuse weights that engines cannot load, and ways that do not lead to them."""
    _check_4bit(flags)
    _check_lora(flags)
    if flags["vllm.sync_with_ray"]:
        raise Refusal("--vllm.sync_with_ray: weights do not travel by Ray's collectives here; leave it out")
    backend, known = flags["vllm.sync_backend"], BACKENDS[platform]
    if backend not in known:
        mend = "use shm (one host) or gloo" if platform == "cpu" else "leave it out: NCCL, or CUDA IPC on shared GPUs"
        raise Refusal(f"--vllm.sync_backend {backend}: does not exist on the platform {platform}; {mend}")


def _check_4bit(flags: dict[str, Any]) -> None:
    if not flags["ds.load_in_4bit"]:
        return
    if not flags["ds.lora.rank"]:
        raise Refusal("--ds.load_in_4bit: 4-bit weights cannot be trained; give --ds.lora.rank 32, or leave it out")
    if flags["ds.param_dtype"] != "bf16":
        raise Refusal(
            f"--ds.param_dtype {flags['ds.param_dtype']}: with --ds.load_in_4bit OpenRLHF computes in bf16; set bf16"
        )
    if flags["ds.zero_stage"] == 3:
        raise Refusal(
            "--ds.zero_stage 3: packed 4-bit weights are not cut into parts; set 2, or leave --ds.load_in_4bit out"
        )
    if flags["critic.model_name_or_path"]:
        raise Refusal(
            "--critic.model_name_or_path: the critic would be packed to 4 bits too; leave one of the two out"
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise Refusal("--ds.load_in_4bit: needs the package bitsandbytes; pip install bitsandbytes==0.50.2")


def _check_lora(flags: dict[str, Any]) -> None:
    if not flags["ds.lora.rank"]:
        return
    if flags["ds.tensor_parallel_size"] > 1:
        raise Refusal(
            f"--ds.tensor_parallel_size {flags['ds.tensor_parallel_size']}: adapters are not merged over split "
            "weights; set 1, or leave --ds.lora.rank out"
        )
    if "lm_head" in (flags["ds.lora.target_modules"] or ()):
        raise Refusal(
            "--ds.lora.target_modules lm_head: an adapter on the output layer is not merged into the engines' tied "
            "weights, and needs whole logits; leave it out"
        )
    if flags["ref.model_name_or_path"]:
        raise Refusal(
            f"--ref.model_name_or_path {flags['ref.model_name_or_path']}: with --ds.lora.rank the reference is the "
            "base model or an earlier adapter; leave it out"
        )


def settle(args: SimpleNamespace) -> None:
    """The way on the CPU platform, where the user names none."""
    if args.platform == "cpu" and args.vllm.sync_backend == "nccl":
        args.vllm.sync_backend = "shm"
