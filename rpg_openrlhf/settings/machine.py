"""Facts about the launching machine, found without torch and without touching a GPU."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
from pathlib import Path
from typing import Any

FLASH_ATTENTION = "flash_attention_2"  # upstream's default of --ds.attn_implementation
BLACKWELL = 10.0  # compute capability


def gpu_memory_gib() -> list[float | None]:
    """One entry per visible CUDA device: its memory in GiB, or None if the driver does not report it."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    sizes = [float(line) / 1024 if line.isdigit() else None for line in _query_nvidia_smi("memory.total")]
    devices = sizes or [None for p in Path("/dev").glob("nvidia*") if re.fullmatch(r"nvidia\d+", p.name)]
    if visible is None:
        return devices
    wanted = [word.strip() for word in visible.split(",") if word.strip() not in ("", "-1", "NoDevFiles")]
    indices = [int(word) for word in wanted if word.isdigit()]
    return [devices[i] for i in indices if i < len(devices)] if len(indices) == len(wanted) else devices[: len(wanted)]


def _query_nvidia_smi(field: str) -> list[str]:
    query = ["nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader,nounits"]
    try:
        result = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return result.stdout.split() if result.returncode == 0 else []


def has_flash_attn() -> bool:
    return importlib.util.find_spec("flash_attn") is not None


def compute_capabilities() -> list[float]:
    """Compute capabilities of the visible GPUs: 9.0 is Hopper, 10 and up Blackwell."""
    return [float(line) for line in _query_nvidia_smi("compute_cap") if line.replace(".", "").isdigit()]


def host_memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def in_a_ray_cluster() -> bool:
    """True if ray.init() would join a running cluster, whose GPUs cannot be counted from here."""
    return "RAY_ADDRESS" in os.environ or Path("/tmp/ray/ray_current_cluster").exists()


def resolve_platform(asked: str) -> str:
    if asked != "auto":
        return asked
    return "cuda" if gpu_memory_gib() else "cpu"


def notes_on_experts(config: dict[str, Any], platform: str) -> list[str]:
    """Warn about a model that vLLM 0.29 is reported to compute wrongly. `config`: the model's config.json."""
    has_experts = any(config.get(name) for name in ("num_experts", "num_local_experts", "n_routed_experts"))
    if platform == "cpu" or not has_experts or config.get("quantization_config"):
        return []
    if not any(capability >= BLACKWELL for capability in compute_capabilities()):
        return []
    return [
        "vLLM 0.29 is reported to give wrong numbers for unquantized mixture-of-experts models on Blackwell GPUs: "
        "compare its log-probs with the trainer's (--algo.advantage.is_correction_level token logs vllm_kl) first"
    ]
