"""Estimate of the memory that a rank needs, from the model's shapes. It takes neither a GPU nor weights."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any, NamedTuple

from rpg_openrlhf.settings import machine

GIB = 2**30
ASSUMED_GPU_GIB = 81_559 / 1024  # an H100 of the published runs, as nvidia-smi shows it
NF4_BYTES = 0.516  # per weight: 4 bits, an 8-bit scale per 64 weights, an fp32 scale per 256 of those
GPU_OVERHEAD_GIB = 3.0  # CUDA context, NCCL buffers, allocator slack
PROCESS_GIB = 0.75  # measured on the CPU platform: libraries of one worker in host memory
TILE_BYTES = {"cpu": 10 * 2**20, "cuda": 2 * 2**26}  # a tile of log_probs.TILE_ELEMENTS with its temporaries
ENGINE_PROCESSES = 2  # the actor and vLLM's core; more only with tensor parallelism
DRIVER_GIB = 2.75  # driver, trainer, Ray head and object store
BUCKET_BYTES = {"cuda": 2**30, "cpu": 2 * 2**26}  # weight sync: one buffer, or two in shared memory
# DeepSpeed 0.19.6's defaults, which OpenRLHF's "auto" keeps: elements in the gradient reduction bucket, and in the
# weights that ZeRO-3 keeps gathered.
REDUCE_ELEMENTS, LIVE_ELEMENTS = 5e8, 1e9
# vLLM's activations: mostly float32 logits of 512 sequences, three times, with a vocabulary of 150,000.
VLLM_OWN_GIB = 1.0
SLEEPING_ENGINE_GIB = 2.0  # CUDA context, NCCL and graphs of a sleeping engine: 1.5 to 2.5


class Shapes(NamedTuple):
    parameters: int
    layers: int
    hidden: int
    inner: int  # MLP width a token passes through (all active experts)
    query: int  # heads x head size
    key: int  # key-value heads x head size
    vocabulary: int
    linear: int  # parameters of all linear layers except the output layer: 4-bit loading packs these
    lora: int  # trainable parameters when LoRA is on, else 0


class Estimate(NamedTuple):
    lines: list[tuple[str, float]]  # part, GiB
    needed: float
    available: float
    remark: str


def count_shapes(config: Any, lora_rank: int, trust_remote_code: bool) -> Shapes:
    """Build the model of a transformers config on the meta device (no memory) and count."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    kind = AutoModelForImageTextToText if hasattr(config, "vision_config") else AutoModelForCausalLM
    with torch.device("meta"):
        model = kind.from_config(config, trust_remote_code=trust_remote_code)
    text = config.get_text_config()
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    inner = getattr(text, "moe_intermediate_size", None)
    inner = inner * text.num_experts_per_tok if inner else text.intermediate_size
    linears = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not model.get_output_embeddings()]
    return Shapes(
        parameters=sum(p.numel() for p in model.parameters()),
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        inner=inner,
        query=text.num_attention_heads * head,
        key=(getattr(text, "num_key_value_heads", None) or text.num_attention_heads) * head,
        vocabulary=text.vocab_size,
        linear=sum(m.weight.numel() for m in linears),
        lora=lora_rank * sum(m.in_features + m.out_features for m in linears),
    )


def model_states(args: SimpleNamespace, shapes: Shapes) -> dict[str, float]:
    """GiB per rank of the states that stay in memory while training.

    Assumes DeepSpeed's mixed precision: weights and gradients in param_dtype, fp32 master weights and two Adam moments
    (12 bytes a trainable parameter); optimizer states partitioned from ZeRO-1 on, gradients from ZeRO-2, weights
    from ZeRO-3, over all ranks. RPG's reference is partitioned from ZeRO-1 on, in fp32 if the policy is mixed into it;
    upstream's is a whole copy per rank below ZeRO-3. Adam offload moves optimizer states and gradients to the host.
    Not counted: EMA, Muon's smaller state, ZeRO++, a critic or reward model.
    """
    ranks = args.actor.num_nodes * args.actor.num_gpus_per_node
    size, stage = (4 if args.ds.param_dtype == "fp32" else 2), args.ds.zero_stage
    least = {"opt": 1, "grad": 2, "weight": 3}
    split = {part: ranks if stage >= least[part] else args.ds.tensor_parallel_size for part in least}
    packed = shapes.linear if args.ds.load_in_4bit else 0
    weights = ((shapes.parameters - packed) * size + packed * NF4_BYTES) / split["weight"]
    trainable = shapes.lora or shapes.parameters
    host = args.ds.adam_offload and args.platform != "cpu"
    states = {
        "weights": weights,
        "gradients": 0 if host else trainable * size / split["grad"],
        "optimizer (fp32 weights, Adam)": 0 if host else trainable * 12 / split["opt"],
    }
    if args.algo.objective == "rpg" and args.ref.refresh != "rollout" and not args.ref.offload:
        held = 4 if args.ref.mix not in (None, 1) else size
        states["reference model"] = trainable * held / split["opt"]
    shares = args.train.colocate_all or args.train.colocate_actor_ref
    if args.algo.kl.init_coef > 0 and shares and not args.ref.offload:
        states["reference model"] = shapes.parameters * size / split["weight"]
    return {name: value / GIB for name, value in states.items()}


def activations(args: SimpleNamespace, shapes: Shapes) -> dict[str, float]:
    """GiB per rank at the peak of one micro-batch.

    Assumes micro-batches padded to data.max_len (or max_tokens_per_gpu full), attention that stores no score matrix,
    and per token and layer: 5 hidden, 2 query, 2 key and 4 inner vectors in param_dtype, and 16 bytes x hidden for
    the fp32 copies in two RMSNorms. With gradient checkpointing: one hidden vector for each layer that recomputes,
    plus all vectors of one such layer.
    With `--actor.chunked_head` the output layer holds a tile of logits, and the hidden states' gradient once in fp32
    and twice in param_dtype. Without it, upstream's backward pass holds whole logits: 2 (bf16) + 4 (fp32) + 4 (their
    gradient) bytes per element, and 4 more if the entropy is computed.
    """
    if args.train.dynamic_batch_enable:
        tokens = max(args.train.max_tokens_per_gpu, args.data.max_len // args.ds.ring_attn_size)
    else:
        tokens = args.train.micro_batch_size * args.data.max_len // args.ds.ring_attn_size
    size = 4 if args.ds.param_dtype == "fp32" else 2
    wide = size * (5 * shapes.hidden + 2 * shapes.query + 2 * shapes.key + 4 * shapes.inner) + 16 * shapes.hidden
    recomputed = 0
    if args.actor.gradient_checkpointing_enable:
        recomputed = min(args.actor.gradient_checkpointing_layers or shapes.layers, shapes.layers)
    per_token = wide * (shapes.layers - recomputed + (recomputed > 0)) + size * shapes.hidden * recomputed
    logits = tokens * shapes.vocabulary * (14 if args.actor.entropy_coef is not None else 10)
    if args.actor.chunked_head != "off":
        logits = tokens * shapes.hidden * (4 + 2 * size) + TILE_BYTES[args.platform]
    return {
        f"activations of {tokens:,} tokens": tokens * per_token / args.ds.tensor_parallel_size / GIB,
        "logits": logits / GIB,
    }


def buffers(args: SimpleNamespace, shapes: Shapes) -> dict[str, float]:
    """GiB per rank of buffers for weights and gradients.

    The weight sync's buffer stays for the whole run: a bucket, or the largest tensor if that is larger. The others
    exist only while training: the gradient reduction bucket, and with ZeRO-3 the gathered weights.
    """
    size, stage = (4 if args.ds.param_dtype == "fp32" else 2), args.ds.zero_stage
    largest = max(shapes.vocabulary, shapes.inner) * shapes.hidden * size
    sizes = {"weight sync": min(shapes.parameters * size, max(BUCKET_BYTES[args.platform], largest))}
    if stage:
        on_gpu = args.platform != "cpu"  # allocated memory counts there; on the host only touched memory
        elements = REDUCE_ELEMENTS if on_gpu else min(REDUCE_ELEMENTS, shapes.parameters)
        sizes["gradients on their way"] = elements * size
    if stage == 3 and args.actor.num_nodes * args.actor.num_gpus_per_node > 1:
        sizes["gathered weights"] = min(LIVE_ELEMENTS, shapes.parameters) * size
    return {name: value / GIB for name, value in sizes.items()}


def engine_parts(args: SimpleNamespace, shapes: Shapes, device_gib: float) -> tuple[dict[str, float], float]:
    """GiB of an engine per device, and tokens in its KV cache: below 0 if the engine's share of a GPU is too small."""
    parts = {"vLLM, weights": shapes.parameters * 2 / args.vllm.tensor_parallel_size / GIB}
    if args.platform == "cpu":
        parts["vLLM, KV cache"] = float(os.environ.get("VLLM_CPU_KVCACHE_SPACE") or 1)
    else:
        share = device_gib * args.vllm.gpu_memory_utilization
        parts["vLLM, KV cache"] = share - parts["vLLM, weights"] - VLLM_OWN_GIB
        parts["vLLM, activations"] = VLLM_OWN_GIB
    token = 2 * 2 * shapes.layers * shapes.key / args.vllm.tensor_parallel_size
    return parts, parts["vLLM, KV cache"] * GIB / token


def estimate(args: SimpleNamespace, shapes: Shapes, device_gib: float | None = None) -> Estimate:
    """Peak memory of a GPU, or of the host on the CPU. `device_gib`: a GPU's memory; None: as found, or an H100's."""
    return _estimate_cpu(args, shapes) if args.platform == "cpu" else _estimate_gpu(args, shapes, device_gib)


def _estimate_gpu(args: SimpleNamespace, shapes: Shapes, device_gib: float | None) -> Estimate:
    """Peak memory of one GPU: the larger of training and generating.

    Sleeping engines release their share while training; a sleeping trainer releases its states while generating.
    Weight sync is never the peak: engines wake without their caches, and both phases count the bucket.
    """
    known = [device_gib] if device_gib else [gib for gib in machine.gpu_memory_gib() if gib is not None]
    device = min(known) if known else ASSUMED_GPU_GIB
    states, peak, passing = model_states(args, shapes), activations(args, shapes), buffers(args, shapes)
    engine, cached = engine_parts(args, shapes, device)
    share, bucket = sum(engine.values()), passing["weight sync"]
    lines = [*states.items(), *peak.items(), *passing.items(), ("CUDA context and slack", GPU_OVERHEAD_GIB)]
    colocated = args.train.colocate_all and not args.train.async_enable
    lines += [(f"{name}, {'the same' if colocated else 'its own'} GPU", gib) for name, gib in engine.items()]
    always = GPU_OVERHEAD_GIB + bucket
    # During the optimizer step activations are freed, and gradients are copied to fp32.
    step = states["gradients"] * 4 / (4 if args.ds.param_dtype == "fp32" else 2)
    training = always + sum(states.values()) + max(sum(peak.values()) + sum(passing.values()) - bucket, step)
    phases = {"training": training, "generating": always + share}
    if colocated:
        # A sleeping trainer keeps its bf16 weights on the device; a reference model never sleeps.
        asleep = args.ds.enable_sleep and (args.actor.optim == "adam" or args.ds.zero_stage < 3)  # deepspeed_states.py
        stays = sum(gib for name, gib in states.items() if not asleep or name in ("weights", "reference model"))
        phases["generating"] += stays
        phases["training"] += SLEEPING_ENGINE_GIB if args.vllm.enable_sleep else share
    moved = states["gradients"] + states["optimizer (fp32 weights, Adam)"]
    fullest = max(phases, key=lambda phase: phases[phase])
    how = "" if device_gib else " found here" if known else " assumed, as no GPU is seen here"
    remark = f"{fullest}; {device:.0f} GiB per GPU{how}"
    remark += f"; vLLM caches {max(cached, 0):,.0f} tokens"
    if colocated and args.ds.enable_sleep:
        remark += f"; while engines sample, a rank's states take {moved:.0f} GiB of pinned host memory"
    if cached < args.data.max_len:
        return Estimate(lines, float("inf"), device, remark + ", less than one sequence of --data.max_len")
    return Estimate(lines, phases[fullest], device, remark)


def _estimate_cpu(args: SimpleNamespace, shapes: Shapes) -> Estimate:
    """Peak host memory of all processes together.

    The CPU platform uses PyTorch's Adam. Its step needs fp32 gradients and two more fp32 vectors of that length: 12
    bytes per parameter, as many as its states. Activations are freed by then.
    """
    ranks = args.actor.num_nodes * args.actor.num_gpus_per_node
    states, peak, passing = model_states(args, shapes), activations(args, shapes), buffers(args, shapes)
    engine, cached = engine_parts(args, shapes, 0)
    step = {"the optimizer's step": states["optimizer (fp32 weights, Adam)"]}
    fuller = max(peak, step, key=lambda parts: sum(parts.values()))
    lines = [*states.items(), *fuller.items(), *passing.items(), ("libraries of a process", PROCESS_GIB)]
    one_rank = sum(gib for _, gib in lines)
    engines = args.vllm.num_engines * args.vllm.tensor_parallel_size
    lines += [(f"{name}, each of {engines}", gib) for name, gib in engine.items()]
    one_engine = sum(engine.values()) + ENGINE_PROCESSES * PROCESS_GIB
    needed = ranks * one_rank + engines * one_engine + DRIVER_GIB
    remark = f"host memory, {ranks} ranks and {engines} engines together; vLLM caches {cached:,.0f} tokens"
    return Estimate(lines, needed, machine.host_memory_gib(), remark)
