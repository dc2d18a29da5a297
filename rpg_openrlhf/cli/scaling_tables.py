"""The tables of docs/scaling.md: does it fit, and how long is a step? `python -m rpg_openrlhf.cli.scaling_tables`

On paper, by memory.py and throughput.py, for the published batch of the 2K setting. Of the layouts that fit, the one
with the shortest step; with the optimizer on the host only where none fits without.
"""

from __future__ import annotations

import copy
import itertools
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import NamedTuple

from rpg_openrlhf.cli import flags, memory, settle, throughput, train_rpg
from rpg_openrlhf.cli.gpus import CONSTANTS, GPU, H100, H200, assuming
from rpg_openrlhf.cli.model_shapes import shapes_of
from rpg_openrlhf.cli.tables import CONFIGS, ROLLOUTS
from rpg_openrlhf.config import Refusal

MODELS = ("Qwen/Qwen3-4B", "Qwen/Qwen2.5-7B-Instruct", "Qwen/Qwen3-14B", "Qwen/Qwen3-32B")
GPUS, NODE = (1, 8, 16, 64), 8
LAYERS = ("base", "algorithm/rpg_reinforce_urkl")
TOKENS = {H100: (10_240, 4_096), H200: (20_480, 10_240, 4_096)}  # the first as in configs/hardware
SHARES = (0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
MEMORY = {  # column: the lines of an estimate that are in it
    "weights": ("weights",),
    "gradients": ("gradients", "gradients on their way"),
    "optimizer": ("optimizer",),
    "activations": ("activations",),
    "head": ("logits",),
    "gathered": ("gathered weights",),
    "sync": ("weight sync",),
    "vLLM weights": ("vLLM, weights",),
    "KV cache": ("vLLM, KV cache",),
}


OTHERWISE = {  # what is changed: flags, or what is assumed
    "as above": {},
    "`--rpg.old_policy rollout`": {"rpg.old_policy": "rollout"},
    "`--ref.refresh never`": {"ref.refresh": "never"},
    "`--ds.zero_stage 2`": {"ds.zero_stage": 2},
    "`--vllm.enable_prefix_caching=false`": {"vllm.enable_prefix_caching": False},
    "an engine decodes 128 sequences at a time, as OpenRLHF's": {"sequences": 128},
    "replies fill 0.3 of their budget": {"filled": 0.3},
    "0.5 of peak in training": {"train": 0.5},
    "0.5 of memory bandwidth in decoding": {"decode": 0.5},
    "nothing drawn again": {"drawn": 1},
}


class Plan(NamedTuple):
    model: str
    gpus: int
    gpu: GPU
    args: SimpleNamespace
    found: memory.Estimate

    @property
    def fits(self) -> bool:
        return self.found.needed <= self.found.available

    @property
    def title(self) -> str:
        return f"{self.model.rpartition('/')[2]} | {self.gpus}"


def args_of(gpus: int) -> SimpleNamespace:
    layers = ",".join(str(CONFIGS / f"{layer}.yaml") for layer in LAYERS)
    words = ["--config", layers, "--actor.num_nodes", str(max(1, gpus // NODE))]
    words += ["--actor.num_gpus_per_node", str(min(NODE, gpus)), "--vllm.num_engines", str(gpus)]
    parsed = flags.parse(words)
    settle.fill_defaults(parsed)
    return train_rpg.validate(parsed, "cuda")[0]


def layouts(gpus: int, gpu: GPU, offload: bool) -> Iterator[SimpleNamespace]:
    start = args_of(gpus)
    sizes = [size for size in (1, 2, 4, 8) if size <= gpus]
    for size, tokens, share in itertools.product(sizes, TOKENS[gpu], SHARES):
        args = copy.deepcopy(start)
        args.ds.adam_offload = offload
        args.vllm.num_engines, args.vllm.tensor_parallel_size = gpus // size, size
        args.train.max_tokens_per_gpu, args.rollout.max_tokens_per_gpu = tokens, 2 * tokens
        args.vllm.gpu_memory_utilization = share
        yield args


def plan(model: str, gpus: int, gpu: GPU) -> Plan:
    """The layout to take; where none fits, the one that needs least."""
    shapes = shapes_of(model)
    assert shapes is not None
    plans: list[Plan] = []
    for offload in (False, True):
        plans += [
            Plan(model, gpus, gpu, args, memory.estimate(args, shapes, gpu.gib))
            for args in layouts(gpus, gpu, offload)
        ]
        fitting = [one for one in plans if one.fits]
        if fitting:
            return min(fitting, key=lambda one: seconds(throughput.work(one.args, shapes, gpu)))
    return min(plans, key=lambda one: one.found.needed)


def seconds(work: throughput.Work) -> float:
    return throughput.step_seconds(work, throughput.predict(work))


def row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def memory_table(plans: list[Plan]) -> list[str]:
    head = ["model", "GPUs", "fits", "GPUs an engine", "vLLM's share", "tokens", *MEMORY, "fullest phase"]
    lines = [row(head), "|---" * len(head) + "|"]
    for one in plans:
        vllm = one.args.vllm
        fits = ("offloaded" if one.args.ds.adam_offload else "yes") if one.fits else "no"
        layout = [str(vllm.tensor_parallel_size), f"{vllm.gpu_memory_utilization:g}"]
        layout.append(f"{one.args.train.max_tokens_per_gpu:,}")
        parts = [
            sum(gib for name, gib in one.found.lines if any(_is(name, start) for start in starts))
            for starts in MEMORY.values()
        ]
        phase = one.found.remark.partition(";")[0]
        cells = [fits, *layout, *(f"{gib:.1f}" for gib in parts), f"{one.found.needed:.0f}, {phase}"]
        lines.append(row([one.title, *cells]))
    return lines


def _is(name: str, start: str) -> bool:
    """Is a line of an estimate the one called so: as it is, or with details after it."""
    return name == start or name.startswith((f"{start} of ", f"{start} (", f"{start}, "))


def time_table(plans: list[Plan]) -> list[str]:
    names = throughput.PHASES
    head = ["model", "GPUs", *names, "step, s", "collectives, s", f"GPU-hours of {ROLLOUTS} steps"]
    lines = [row(head), "|---" * len(head) + "|"]
    for one in plans:
        if not one.fits:
            continue
        shapes = shapes_of(one.model)
        assert shapes is not None
        work = throughput.work(one.args, shapes, one.gpu)
        terms = throughput.predict(work)
        phases = throughput.by_phase(terms)
        cells = [f"{phases[name][0]:,.1f}, {phases[name][1]}" if name in phases else "" for name in names]
        moved = sum(term.seconds for term in terms if term.bound in (throughput.NVLINK, throughput.NETWORK))
        cells += [f"{seconds(work):,.0f}", f"{moved:,.1f}"]
        lines.append(row([one.title, *cells, f"{throughput.gpu_hours(work, ROLLOUTS):,.0f}"]))
    return lines


def otherwise_table(model: str, gpu: GPU) -> list[str]:
    """The same run on one node with one thing changed."""
    names = ("generate", "experience", "train")
    lines = [row([f"{model.rpartition('/')[2]}, {NODE} x {gpu.name}", *names, "step, s"]), "|---" * 5 + "|"]
    start, shapes = plan(model, NODE, gpu).args, shapes_of(model)
    assert shapes is not None
    for title, changes in OTHERWISE.items():
        args = copy.deepcopy(start)
        for flag in [name for name in changes if "." in name]:
            section, leaf = flag.split(".")
            setattr(getattr(args, section), leaf, changes[flag])
        with assuming(**{name: value for name, value in changes.items() if "." not in name}):
            work = throughput.work(args, shapes, gpu)
            phases = throughput.by_phase(throughput.predict(work))
            cells = [f"{phases[name][0] if name in phases else 0:,.1f}" for name in names]
            lines.append(row([title, *cells, f"{seconds(work):,.0f}"]))
    return lines


def constants_table() -> list[str]:
    lines = [row(["assumed", "", "source"]), "|---" * 3 + "|"]
    return lines + [row([f"{one.value:g}", one.meaning, one.source]) for one in CONSTANTS.values()]


def pages() -> str:
    """Everything between the marks in docs/scaling.md."""
    blocks = []
    for gpu in (H100, H200):
        plans = [plan(model, gpus, gpu) for model in MODELS for gpus in GPUS]
        blocks += [f"**{gpu.name}**, GiB per GPU (of {gpu.gib:.0f}):", "\n".join(memory_table(plans))]
        blocks += [f"**{gpu.name}**, seconds a step, and what the longest term of a phase is bound by:"]
        blocks += ["\n".join(time_table(plans))]
    blocks += ["**One thing changed**, seconds:", "\n".join(otherwise_table(MODELS[0], H100))]
    blocks += ["\n".join(otherwise_table(MODELS[1], H100)), "**What is assumed:**", "\n".join(constants_table())]
    return "\n\n".join(blocks)


def main() -> int:
    """The exit status: 0, or 2 for a refusal, as where the layers of a checkout are missing."""
    try:
        print(pages())
    except Refusal as refusal:
        print(f"scaling_tables: {refusal}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
