"""How long a step will take on GPUs, by phase, and what bounds each term: on paper, from shapes and data sheets.

A term's time is that of the resource it uses most; terms of a step are added up. Nothing is assumed to overlap save
that weights, caches and arithmetic of one decoding step do. What is assumed to be reached stands in gpus.CONSTANTS.
Not counted: evaluation, checkpoints, grading (it runs beside generation), an own critic or reward model, what ring
attention and tensor parallelism in training exchange, and the optimizer on the host with --ds.adam_offload.
"""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import NamedTuple

from rpg_openrlhf.cli import memory
from rpg_openrlhf.cli.gpus import GPU, constant
from rpg_openrlhf.cli.memory import Shapes

COMPUTE, BANDWIDTH, NVLINK, NETWORK, PCIE = "compute", "memory bandwidth", "NVLink", "network", "PCIe"
LAUNCH, PYTHON = "launches", "Python"
PHASES = ("generate", "experience", "train", "sync", "sleep and wake", "driver")
ADAM_BYTES = 28  # a parameter: three fp32 numbers read and written, a bf16 gradient read, a bf16 weight written


class Term(NamedTuple):
    phase: str
    what: str
    seconds: float
    bound: str


class Work(NamedTuple):
    """What a step does, from the run's flags."""

    args: SimpleNamespace
    shapes: Shapes
    gpu: GPU
    prompt: float  # tokens, in the mean
    response: float
    budget: int  # of tokens, which the longest response fills

    @property
    def samples(self) -> int:
        return self.args.rollout.batch_size * self.args.rollout.n_samples_per_prompt

    @property
    def world(self) -> int:
        return self.args.actor.num_nodes * self.args.actor.num_gpus_per_node

    @property
    def colocated(self) -> bool:
        return self.args.train.colocate_all and not self.args.train.async_enable

    @property
    def body(self) -> int:
        """Weights a token is multiplied with, without the output layer."""
        s = self.shapes
        return s.layers * s.hidden * (2 * (s.query + s.key) + 3 * s.inner)

    @property
    def head(self) -> int:
        return self.shapes.vocabulary * self.shapes.hidden

    @property
    def length(self) -> float:
        """Tokens of a sequence in the trainer. Without packing it is padded to its micro-batch's longest."""
        packed = self.args.train.dynamic_batch_enable or self.args.ds.packing_samples
        return self.prompt + (self.response if packed else self.budget)


def work(
    args: SimpleNamespace, shapes: Shapes, gpu: GPU, prompt: float | None = None, response: float | None = None
) -> Work:
    """`prompt` and `response`: mean tokens, where they are known."""
    prompt = constant("prompt") if prompt is None else prompt
    budget = args.rollout.max_new_tokens or max(1, args.data.max_len - int(prompt))
    return Work(args, shapes, gpu, prompt, constant("filled") * budget if response is None else response, budget)


def predict(w: Work) -> list[Term]:
    """The terms of a step, those that take no time left out."""
    terms = [*generate(w), *experience(w), *train(w), sync(w), *sleep_and_wake(w), driver(w)]
    return [term for term in terms if term.seconds > 0]


def step_seconds(w: Work, terms: list[Term]) -> float:
    """Generation runs beside everything else under --train.async_enable, before it otherwise."""
    generation = sum(term.seconds for term in terms if term.phase == "generate")
    rest = sum(term.seconds for term in terms) - generation
    return max(generation, rest) if w.args.train.async_enable else generation + rest


def generate(w: Work) -> list[Term]:
    """Of the engine with the most work. Each prompt is read once where the prefix cache is on.

    Sequences are decoded `decoded_at_once` at a time as long as others wait; the last of them drain until the longest
    has filled its budget.
    """
    vllm = w.args.vllm
    drawn = constant("drawn") if w.args.algo.dynamic_filtering_enable else 1
    prompts = math.ceil(w.args.rollout.batch_size * drawn / vllm.num_engines)
    reads = 1 if vllm.enable_prefix_caching else w.args.rollout.n_samples_per_prompt
    flops = prompts * reads * (2 * w.prompt * w.body + 2 * w.prompt**2 * w.shapes.query * w.shapes.layers)
    prefill = flops / (vllm.tensor_parallel_size * w.gpu.flops * constant("prefill"))
    sequences = prompts * w.args.rollout.n_samples_per_prompt
    at_once = decoded_at_once(w, sequences)
    full, bound = decode_step(w, at_once)
    draining, _ = decode_step(w, at_once * w.response / w.budget)
    decode = (sequences / at_once - 1) * w.response * full
    return [
        Term("generate", "prefill", prefill, COMPUTE),
        Term("generate", f"decode, {at_once:.0f} sequences at a time", decode, bound),
        Term("generate", "the last of them, until the longest ends", w.budget * draining, bound),
    ]


def decoded_at_once(w: Work, sequences: int) -> float:
    """What vLLM admits, and its cache holds at full length."""
    _, cached = memory.engine_gib(w.args, w.shapes, w.gpu.gib)
    shared = w.args.rollout.n_samples_per_prompt if w.args.vllm.enable_prefix_caching else 1
    return max(1.0, min(sequences, constant("sequences"), cached / (w.response + w.prompt / shared)))


def decode_step(w: Work, sequences: float) -> tuple[float, str]:
    """One token for each sequence: (seconds, what they are spent on)."""
    gpus, context, s = w.args.vllm.tensor_parallel_size, w.prompt + w.response / 2, w.shapes
    read = 2 * s.parameters + sequences * context * 4 * s.layers * s.key
    flops = sequences * (2 * (w.body + w.head) + 4 * context * s.query * s.layers)
    device = {
        BANDWIDTH: read / gpus / (w.gpu.memory * constant("decode")),
        COMPUTE: flops / gpus / (w.gpu.flops * constant("prefill")),
    }
    launches = constant("launch") + (2 * s.layers * constant("reduce") if gpus > 1 else 0)
    logs = w.args.algo.objective == "rpg" and w.args.rpg.old_policy == "rollout"
    logs |= w.args.algo.advantage.is_correction_level != "off"
    python = sequences * constant("front_log_probs" if logs else "front")
    bounds = {**device, LAUNCH: launches, PYTHON: python}
    return max(max(device.values()) + launches, python), max(bounds, key=lambda name: bounds[name])


def sequence_flops(w: Work, times: int) -> float:
    """`times` the forward pass of all samples; attention sees half of a sequence in the mean."""
    tokens = w.response if w.args.actor.chunked_head != "off" else w.length
    body = 2 * w.length * w.body + 2 * w.length**2 * w.shapes.query * w.shapes.layers
    return w.samples * times * (body + 2 * tokens * w.head)


def experience(w: Work) -> list[Term]:
    """The old policy's log-probs and the reference's, where they are computed."""
    rpg = w.args.algo.objective == "rpg"
    passes = {}
    if not (rpg and (w.args.rpg.on_policy or w.args.rpg.old_policy == "rollout")):
        passes["old log-probs"] = 1
    if (rpg and w.args.ref.refresh != "rollout") or (not rpg and w.args.algo.kl.init_coef > 0):
        passes["reference log-probs"] = 1
    speed = w.world * w.gpu.flops * constant("train")
    terms = [Term("experience", name, sequence_flops(w, 1) / speed, COMPUTE) for name in passes]
    dynamic = w.args.train.dynamic_batch_enable
    tokens = (w.args.rollout.max_tokens_per_gpu or w.args.train.max_tokens_per_gpu) if dynamic else 0
    micro = micro_batches(w, w.samples, tokens or w.args.rollout.micro_batch_size * w.length)
    if w.args.ds.zero_stage == 3:
        terms.append(exchange(w, "experience", "weights gathered", len(passes) * micro * 2 * w.shapes.parameters))
    return terms


def train(w: Work) -> list[Term]:
    """Forward 1, backward 2, and the forward again where activations are not kept; the chunked head always again."""
    steps = max(1, w.samples // w.args.train.batch_size) * w.args.train.max_epochs
    again = memory.recomputed_layers(w.args, w.shapes) / w.shapes.layers
    flops = sequence_flops(w, 3 + again)
    if w.args.actor.chunked_head != "off":
        flops += w.samples * 2 * w.response * w.head * (1 - again)
    else:
        flops -= w.samples * 2 * w.length * w.head * again  # whose logits are kept
    speed = w.world * w.gpu.flops * constant("train")
    shard = w.shapes.parameters / (w.world if w.args.ds.zero_stage else 1)
    adam = steps * shard * ADAM_BYTES / (w.gpu.memory * constant("copy"))
    seconds = flops * w.args.train.max_epochs / speed
    return [
        Term("train", "forward, backward" + (", recomputation" if again else ""), seconds, COMPUTE),
        Term("train", "optimizer", 0 if w.args.ds.adam_offload else adam, BANDWIDTH),
        exchange(w, "train", "weights and gradients", zero_traffic(w, steps)),
    ]


def zero_traffic(w: Work, steps: int) -> float:
    """Bytes that each rank gathers and reduces in training, in bf16. An all-reduce counts twice."""
    dynamic, stage = w.args.train.dynamic_batch_enable, w.args.ds.zero_stage
    tokens = w.args.train.max_tokens_per_gpu if dynamic else w.args.train.micro_batch_size * w.length
    micro = steps * micro_batches(w, w.args.train.batch_size, tokens)
    # ZeRO-3 gathers for forward and backward and reduces after each micro-batch; ZeRO-2 reduces then, and gathers
    # at the step; ZeRO-1 and none do both at the step.
    passes = {3: 3 * micro, 2: micro + steps}.get(stage, 2 * steps)
    return passes * 2 * w.shapes.parameters


def micro_batches(w: Work, sequences: int, tokens: float) -> int:
    """Of a rank, for so many sequences over all ranks, at so many tokens each."""
    groups = w.world / w.args.ds.ring_attn_size / w.args.ds.tensor_parallel_size
    return math.ceil(sequences / groups * w.length / max(tokens, w.length))


def exchange(w: Work, phase: str, what: str, nbytes: float) -> Term:
    """A collective over all ranks. Between nodes the rings go through every GPU's own adapter."""
    between = w.gpu.network * w.args.actor.num_gpus_per_node
    speed = w.gpu.nvlink if w.args.actor.num_nodes == 1 else min(w.gpu.nvlink, between)
    seconds = nbytes * (w.world - 1) / w.world / (speed * constant("link"))
    return Term(phase, what, seconds, NVLINK if speed == w.gpu.nvlink else NETWORK)


def sync(w: Work) -> Term:
    """Gather, pack and load, bucket by bucket; between GPUs a broadcast besides."""
    nbytes = 2 * w.shapes.parameters
    calls = math.ceil(nbytes / memory.BUCKET_BYTES["cuda"]) * constant("bucket")
    costs = {PYTHON: calls, BANDWIDTH: 4 * nbytes / (w.gpu.memory * constant("copy"))}
    if w.args.ds.zero_stage == 3:
        gather = exchange(w, "sync", "", nbytes)
        costs[gather.bound] = gather.seconds
    if not w.colocated:
        one_node = w.args.num_gpus <= constant("node")
        name, speed = (NVLINK, w.gpu.nvlink) if one_node else (NETWORK, w.gpu.network)
        costs[name] = costs.get(name, 0) + nbytes / (speed * constant("link"))
    return Term("sync", "weights to the engines", sum(costs.values()), max(costs, key=lambda name: costs[name]))


def sleep_and_wake(w: Work) -> list[Term]:
    """What colocated engines and trainer move to the host and back, once a rollout."""
    speed, p = w.gpu.pcie * constant("link"), w.shapes.parameters
    terms = []
    if w.colocated and w.args.vllm.enable_sleep:
        terms.append(Term("sleep and wake", "engine", 4 * p / w.args.vllm.tensor_parallel_size / speed, PCIE))
    if w.colocated and w.args.ds.enable_sleep and not w.args.ds.adam_offload:
        states = memory.model_states(w.args, w.shapes)
        moved = sum(gib for name, gib in states.items() if name not in ("weights", "reference model"))
        terms.append(Term("sleep and wake", "trainer", 2 * moved * memory.GIB / speed, PCIE))
    return terms


def driver(w: Work) -> Term:
    """Responses to micro-batches, in one process whatever the number of GPUs."""
    seconds = w.samples * (constant("driver") + constant("driver_token") * (w.prompt + w.response))
    return Term("driver", "samples to micro-batches", seconds, PYTHON)


def by_phase(terms: list[Term]) -> dict[str, tuple[float, str]]:
    """Seconds of each phase, and what its longest term is bound by."""
    found = {phase: [term for term in terms if term.phase == phase] for phase in PHASES}
    return {
        phase: (sum(t.seconds for t in own), max(own, key=lambda t: t.seconds).bound)
        for phase, own in found.items()
        if own
    }


def gpu_hours(w: Work, rollouts: float) -> float:
    return rollouts * step_seconds(w, predict(w)) * w.args.num_gpus / 3600
