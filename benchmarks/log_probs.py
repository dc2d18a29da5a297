"""Log-probs and entropy: `--actor.chunked_head` against OpenRLHF 0.11.2's path as shipped, on the same work.

    python benchmarks/log_probs.py --out head.json
    python benchmarks/log_probs.py --device cuda --tokens 8192,32768 --hidden 2560 --dtypes bf16 --out head.json

Both are Actors (upstream's, and ours) around a model that is an output layer alone, over given hidden states. Every
measurement is a process of its own, the two in turn. On a CPU: seconds of one core, and the growth of resident memory
at its peak. On CUDA: milliseconds by the device's clock, and its peak of allocated memory. `net` leaves out the
weight's gradient, which both need.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import machine

VOCABULARY = 151_936  # Qwen3's
PATHS = ("openrlhf", "chunked")
MODES = ("log-probs + entropy", "log-probs", "forward alone")
CASE = "--case"
OUT_OF_MEMORY = 75  # a case's exit status: NaN in the table; any other failure ends the benchmark


def actors(device: str) -> dict[str, type]:
    """Upstream's class and ours, importable with and without CUDA."""
    from rpg_openrlhf import cpu_platform

    helpers = contextlib.nullcontext()
    if device == "cpu":
        cpu_platform.install()
    elif importlib.util.find_spec("flash_attn") is None:  # upstream imports its padding helpers, which need no kernels
        helpers = contextlib.contextmanager(cpu_platform._flash_attn_helpers)(None)
    with helpers:
        from openrlhf.models import Actor
    from rpg_openrlhf.training.chunked_head import RequiredChunkedActor

    return dict(zip(PATHS, (Actor, RequiredChunkedActor), strict=True))


def policy(kind: type, case: SimpleNamespace, tokens: int, vocabulary: int):
    """An actor whose model is an output layer over hidden states, both with gradients."""
    import torch
    from transformers.modeling_outputs import CausalLMOutputWithPast

    class OutputLayer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[case.dtype]
            torch.manual_seed(0)
            with torch.device(case.device):
                self.hidden = torch.nn.Parameter(torch.randn(1, tokens, case.hidden, dtype=dtype))
                self.lm_head = torch.nn.Linear(case.hidden, vocabulary, bias=False, dtype=dtype)

        def get_output_embeddings(self):
            return self.lm_head

        def forward(self, *_, **__):
            return CausalLMOutputWithPast(logits=self.lm_head(self.hidden))

    made = kind(OutputLayer(), temperature=case.temperature)
    made.packing_samples = False
    return made


def run(actor, mode: str) -> None:
    """Run a training step, or the old policy's forward pass, on an actor."""
    import torch

    shape, device = actor.model.hidden.shape[:2], actor.model.hidden.device
    sequences = torch.randint(0, actor.model.lm_head.out_features, shape, device=device)
    present = torch.ones(shape, dtype=torch.long, device=device)
    if mode == "forward alone":
        with torch.no_grad():
            actor(sequences, present[:, 1:], present)
        return
    log_probs, output = actor(
        sequences, present[:, 1:], present, return_output=True, return_entropy=mode == "log-probs + entropy"
    )
    loss = log_probs.mean()
    if mode == "log-probs + entropy":
        loss = loss - 0.01 * output.entropy.mean()
    loss.backward()
    actor.zero_grad(set_to_none=True)


def on_cpu(kind: type, case: SimpleNamespace) -> dict[str, float]:
    import torch

    torch.set_num_threads(1)
    for tokens, vocabulary in ((16, 1024), (24, 1536)):  # loads kernels, and compiles upstream's entropy for any shape
        run(policy(kind, case, tokens, vocabulary), case.mode)
    actor = policy(kind, case, case.tokens, VOCABULARY)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts here
    before, start = status("VmRSS"), time.process_time()
    run(actor, case.mode)
    return {"seconds": time.process_time() - start, "bytes": status("VmHWM") - before}


def status(name: str) -> int:
    """A line of /proc/self/status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":"))


def on_cuda(kind: type, case: SimpleNamespace) -> dict[str, float]:
    import torch

    actor = policy(kind, case, case.tokens, VOCABULARY)
    for _ in range(3):  # compiles
        run(actor, case.mode)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    times = []
    for _ in range(10):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run(actor, case.mode)
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) / 1000)
    return {"seconds": statistics.median(times), "bytes": torch.cuda.max_memory_allocated() - before}


def measure(case: dict) -> dict[str, float]:
    """One case in a process of its own."""
    # Upstream's entropy is compiled as shipped; the CPU platform of this package computes it eagerly.
    env = {**os.environ, "OMP_NUM_THREADS": "1", "TORCHDYNAMO_DISABLE": "0"}
    command = [sys.executable, __file__, CASE, json.dumps(case)]
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True)
    if done.returncode == OUT_OF_MEMORY or done.returncode == -signal.SIGKILL:
        return {"seconds": float("nan"), "bytes": float("nan")}
    if done.returncode:
        raise SystemExit(f"log_probs.py: {json.dumps(case)} ended with status {done.returncode}; its error is above")
    return json.loads(done.stdout.splitlines()[-1])


def compare(case: dict, repeats: int) -> dict:
    """Both paths in turn -> the case with medians, extremes and ratios."""
    results: dict[str, list[dict]] = {path: [] for path in PATHS}
    for _ in range(repeats):
        for path in PATHS:
            results[path].append(measure({**case, "path": path}))
    size = {"fp32": 4, "bf16": 2}[case["dtype"]]
    gradient = 0 if case["mode"] == "forward alone" else VOCABULARY * case["hidden"] * size
    row = dict(case)
    for path, runs in results.items():
        seconds = [each["seconds"] for each in runs]
        peak = statistics.median(each["bytes"] for each in runs)
        row[path] = {"seconds": seconds, "median": statistics.median(seconds), "peak": peak, "net": peak - gradient}
    ours, theirs = row["chunked"], row["openrlhf"]
    row["time_ratio"], row["memory_ratio"] = ours["median"] / theirs["median"], theirs["net"] / ours["net"]
    return row


def table(rows: list[dict]) -> str:
    """Markdown."""
    cuda = rows[0]["device"] == "cuda"
    unit, scale, digits = ("ms", 1000, 1) if cuda else ("CPU s", 1, 1)
    head = ["tokens", "H", "dtype", "work", "path", f"{unit} [min, max]", "peak, MB", "net, MB", "time", "net memory"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for row in rows:
        for path in PATHS:
            it = row[path]
            low, high = min(it["seconds"]) * scale, max(it["seconds"]) * scale
            cells = [f"{row['tokens']:,}", row["hidden"], row["dtype"], row["mode"], path]
            cells += [f"{it['median'] * scale:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"]
            cells += [f"{it['peak'] / 1e6:,.0f}", f"{it['net'] / 1e6:,.0f}"]
            ours = path == "chunked"
            cells += [f"{row['time_ratio']:.2f}x" if ours else "", f"1/{row['memory_ratio']:.0f}" if ours else ""]
            lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def main() -> None:
    """Every combination asked for, one row each."""
    parser = argparse.ArgumentParser(description="Log-probs and entropy: ours against OpenRLHF's path.")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--tokens", default="2048", help="comma-separated")
    parser.add_argument("--hidden", default="256", help="comma-separated")
    parser.add_argument("--dtypes", default="fp32,bf16", help="comma-separated")
    parser.add_argument("--modes", default=",".join(MODES), help="comma-separated")
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, help="JSON to write")
    args = parser.parse_args()
    report: dict = {"machine": machine.describe(args.device), "rows": []}
    for hidden in args.hidden.split(","):
        for tokens in args.tokens.split(","):
            for dtype in args.dtypes.split(","):
                for mode in args.modes.split(","):
                    case = {"device": args.device, "tokens": int(tokens), "hidden": int(hidden), "dtype": dtype}
                    case |= {"mode": mode, "temperature": args.temperature}
                    report["rows"].append(compare(case, args.repeats))
                    if args.out:
                        args.out.write_text(json.dumps(report, indent=1) + "\n")
    print(machine.in_words(report["machine"]), table(report["rows"]), sep="\n\n")


if __name__ == "__main__":
    if sys.argv[1:2] == [CASE]:
        import torch  # late: the parent measures nothing itself

        one = SimpleNamespace(**json.loads(sys.argv[2]))
        try:
            print(json.dumps({"cpu": on_cpu, "cuda": on_cuda}[one.device](actors(one.device)[one.path], one)))
        except (MemoryError, torch.OutOfMemoryError) as error:
            print(error, file=sys.stderr)
            sys.exit(OUT_OF_MEMORY)
    else:
        main()
