"""What a GPU can do by its data sheet, and what share of it is assumed to be reached. Every number has its source."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import NamedTuple


class GPU(NamedTuple):
    name: str
    flops: float  # bf16, dense, a second
    gib: float  # as nvidia-smi shows it
    memory: float  # bytes a second
    nvlink: float  # bytes a second in one direction
    network: float  # the same between nodes, for each GPU
    pcie: float  # the same to the host


# NVIDIA's data sheets of H100 and H200 SXM: 1,979 TFLOP/s in bf16 with sparsity, half of it without; 3.35 and 4.8
# TB/s; NVLink 900 GB/s and PCIe 128 GB/s in both directions together. Network: a DGX has one 400 Gb/s adapter for each
# GPU. Memory: nvidia-smi shows 81,559 and 143,771 MiB.
H100 = GPU("H100 80 GB", 989e12, 81_559 / 1024, 3.35e12, 450e9, 50e9, 64e9)
H200 = GPU("H200 141 GB", 989e12, 143_771 / 1024, 4.8e12, 450e9, 50e9, 64e9)


class Constant(NamedTuple):
    value: float
    meaning: str
    source: str


CONSTANTS = {
    "train": Constant(0.40, "of peak FLOP/s in training and in forward passes", "assumption"),
    "prefill": Constant(0.50, "of peak FLOP/s where vLLM computes: prefill, and decoding of very many", "assumption"),
    "decode": Constant(0.70, "of memory bandwidth while decoding", "assumption"),
    "copy": Constant(
        0.90,
        "of memory bandwidth where memory is copied",
        "4.3 of 4.8 TB/s on an H200, by the project's notes; not checked here",
    ),
    "link": Constant(0.80, "of NVLink, network and PCIe", "assumption"),
    "launch": Constant(2e-3, "s a decoding step besides, with CUDA graphs", "assumption"),
    "reduce": Constant(15e-6, "s each of two all-reduces a layer, where an engine has several GPUs", "assumption"),
    "sequences": Constant(
        512, "sequences an engine decodes at a time", "trainer/install.py; vLLM 0.29 alone: 128 for OpenRLHF's engine"
    ),
    "front": Constant(
        9e-6,
        "s of vLLM's front end a token, one process an engine",
        "measured on one AMD EPYC core, by the project's notes",
    ),
    "front_log_probs": Constant(
        28e-6, "the same with log-probs of the sampled tokens", "measured on one AMD EPYC core, by the project's notes"
    ),
    "bucket": Constant(
        15e-3, "s a bucket of the weight sync besides its bytes", "measured on a CPU, docs/performance.md"
    ),
    "driver": Constant(6e-4, "s of the trainer's own Python a sequence", "measured on a CPU, docs/performance.md"),
    "driver_token": Constant(5e-7, "s of the trainer's own Python a token", "assumption"),
    "filled": Constant(0.6, "of the response budget is the mean response; the longest fills it", "assumption"),
    "drawn": Constant(1.5, "groups drawn for each that dynamic sampling keeps", "assumption"),
    "node": Constant(8, "GPUs in a node, where engines have GPUs of their own", "assumption"),
    "prompt": Constant(200, "tokens of a prompt, where no data set is read", "assumption"),
}


def constant(name: str) -> float:
    return CONSTANTS[name].value


@contextlib.contextmanager
def assuming(**values: float) -> Iterator[None]:
    """Other values for some constants meanwhile."""
    before = dict(CONSTANTS)
    CONSTANTS.update({name: before[name]._replace(value=value) for name, value in values.items()})
    try:
        yield
    finally:
        CONSTANTS.update(before)


def named(name: str | None) -> GPU | None:
    """By what nvidia-smi calls it; None where there are no rates."""
    return next((gpu for key, gpu in (("H200", H200), ("H100", H100)) if name and key in name.upper()), None)
