"""Log-probs and entropy: `--actor.chunked_head` against OpenRLHF 0.11.2's path as shipped, on the same inputs.

    python benchmarks/log_probs.py --out head.json
    python benchmarks/log_probs.py --device cuda --tokens 8192,32768 --hidden 2560 --dtypes bf16 --out head.json

Both paths are Actors (upstream's and ours) around a model of only an output layer, over given hidden states. Every
measurement has its own process, and the paths take turns. On a CPU: seconds of one core, and the peak growth of
resident memory. On CUDA: milliseconds until the device has finished, and the peak of allocated memory. `net` excludes
the weight's gradient, which both need.
"""

import itertools
import os
import resource
import signal
import statistics
import sys
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

import harness
import psutil
import torch
from harness import Report, numbers, spread, table, words
from torch.utils.benchmark import Timer
from transformers.modeling_outputs import CausalLMOutputWithPast

from rpg_openrlhf import cpu_platform

VOCABULARY = 151_936  # Qwen3's
PATHS = ("openrlhf", "chunked")
MODES = ("log-probs + entropy", "log-probs", "forward alone")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Case(NamedTuple):
    """Work of one measurement, the same for both paths."""

    device: str
    hidden: int
    tokens: int
    dtype: str
    mode: str


class OutputLayer(torch.nn.Module):
    """A model of one output layer; its hidden states are parameters, so that they get gradients too."""

    def __init__(self, case: Case, tokens: int, vocabulary: int):
        super().__init__()
        torch.manual_seed(0)
        with torch.device(case.device):
            self.hidden = torch.nn.Parameter(torch.randn(1, tokens, case.hidden, dtype=DTYPES[case.dtype]))
            self.lm_head = torch.nn.Linear(case.hidden, vocabulary, bias=False, dtype=DTYPES[case.dtype])

    def get_output_embeddings(self):
        return self.lm_head

    def forward(self, *_, **__):
        return CausalLMOutputWithPast(logits=self.lm_head(self.hidden))


def actor_of(path: str, case: Case, tokens: int, vocabulary: int = VOCABULARY):
    """Upstream's actor or ours around an output layer, with or without CUDA."""
    if case.device == "cpu":
        cpu_platform.install()
    else:
        cpu_platform.stand_in_for_flash_attn()
    from openrlhf.models import Actor

    from rpg_openrlhf.training.chunked_head import RequiredChunkedActor

    kind = dict(zip(PATHS, (Actor, RequiredChunkedActor), strict=True))[path]
    actor = kind(OutputLayer(case, tokens, vocabulary), temperature=1.0)
    actor.packing_samples = False
    return actor


def run(actor, mode: str) -> None:
    """Run a step's forward and backward pass, or the old policy's forward pass, on an actor."""
    shape, device = actor.model.hidden.shape[:2], actor.model.hidden.device
    sequences = torch.randint(0, actor.model.lm_head.out_features, shape, device=device)
    present = torch.ones(shape, dtype=torch.long, device=device)
    if mode == "forward alone":
        with torch.no_grad():
            actor(sequences, present[:, 1:], present)
        return
    with_entropy = mode == "log-probs + entropy"
    log_probs, output = actor(sequences, present[:, 1:], present, return_output=True, return_entropy=with_entropy)
    loss = log_probs.mean()
    if with_entropy:
        loss = loss - 0.01 * output.entropy.mean()
    loss.backward()
    actor.zero_grad(set_to_none=True)


def on_cpu(path: str, case: Case) -> dict[str, float]:
    """CPU seconds of one core, and the peak of resident memory above its start, in bytes."""
    torch.set_num_threads(1)
    for tokens, vocabulary in ((16, 1024), (24, 1536)):  # loads kernels, and compiles upstream's entropy for any shape
        run(actor_of(path, case, tokens, vocabulary), case.mode)
    actor = actor_of(path, case, case.tokens)
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before, start = psutil.Process().memory_info().rss, time.process_time()
    run(actor, case.mode)
    seconds = time.process_time() - start
    return {"seconds": seconds, "bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before}


def on_cuda(path: str, case: Case) -> dict[str, float]:
    """Seconds until the device has finished, and the peak of allocated memory above its start, in bytes."""
    actor = actor_of(path, case, case.tokens)
    for _ in range(3):  # compiles
        run(actor, case.mode)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    timer = Timer("run(actor, mode)", globals={"run": run, "actor": actor, "mode": case.mode})
    seconds = statistics.median(timer.timeit(1).mean for _ in range(10))
    return {"seconds": seconds, "bytes": torch.cuda.max_memory_allocated() - before}


def measure(path: str, case: Case, turn: int) -> dict[str, float]:
    """Seconds and bytes of a case; NaN if memory runs out, by an exception or by Linux's kill."""
    try:
        return harness.alone({"cpu": on_cpu, "cuda": on_cuda}[case.device], path, case)
    except (MemoryError, torch.OutOfMemoryError, harness.Died) as error:
        if isinstance(error, harness.Died) and error.status != -signal.SIGKILL:
            raise
        print(f"{path}, {case}: {error}", file=sys.stderr)
        return {"seconds": float("nan"), "bytes": float("nan")}


def rows_of(case: Case, results: dict[str, list[dict[str, float]]]) -> list[dict]:
    """A row for each path; ours also has the ratios to upstream's."""
    gradient = 0 if case.mode == "forward alone" else VOCABULARY * case.hidden * DTYPES[case.dtype].itemsize
    unit, scale = ("ms", 1000) if case.device == "cuda" else ("CPU s", 1)
    seconds, peak = ({path: statistics.median(turn[name] for turn in turns) for path, turns in results.items()}
                     for name in ("seconds", "bytes"))  # fmt: skip
    net = {path: peak[path] - gradient for path in PATHS}
    ratios = {"time": f"{seconds['chunked'] / seconds['openrlhf']:.2f}x"}
    ratios["net memory"] = f"1/{net['openrlhf'] / net['chunked']:.0f}"
    return [
        {
            "tokens": f"{case.tokens:,}", "H": case.hidden, "dtype": case.dtype, "work": case.mode, "path": path,
            f"{unit} [min, max]": spread((turn["seconds"] for turn in results[path]), 1, scale),
            "peak, MB": f"{peak[path] / 1e6:,.0f}", "net, MB": f"{net[path] / 1e6:,.0f}",
            **(ratios if path == "chunked" else dict.fromkeys(ratios, "")),
        }
        for path in PATHS
    ]  # fmt: skip


def main() -> None:
    """Measure every combination of the flags, with a row for each path."""
    parser = harness.flags(__doc__, repeats=5)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--tokens", type=numbers, default=[2048], help="comma-separated")
    parser.add_argument("--hidden", type=numbers, default=[256], help="comma-separated")
    parser.add_argument("--dtypes", type=words, default=list(DTYPES), help="comma-separated")
    parser.add_argument("--modes", type=words, default=list(MODES), help="comma-separated")
    args = parser.parse_args()
    # Compile upstream's entropy as shipped; our CPU platform would compute it eagerly.
    os.environ |= {"OMP_NUM_THREADS": "1", "TORCHDYNAMO_DISABLE": "0"}
    report, rows = Report(args), []
    for sizes in itertools.product(args.hidden, args.tokens, args.dtypes, args.modes):
        case = Case(args.device, *sizes)
        ways = {path: partial(measure, path, case) for path in PATHS}
        rows += rows_of(case, report.in_turns(ways, str(case)))
    report.show(table(rows))


if __name__ == "__main__":
    main()
