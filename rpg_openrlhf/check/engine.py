"""Stages `transport` and `engine`: send weights between processes; run, sleep, wake and sync a tiny engine."""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from transformers import Qwen3ForCausalLM

from rpg_openrlhf.check.numerics import VOCABULARY, tiny_config
from rpg_openrlhf.check.stages import Failed
from rpg_openrlhf.weight_sync.plan import checksum, make_plan
from rpg_openrlhf.weight_sync.transports import CudaIpc, SharedMemory

if TYPE_CHECKING:
    from vllm import LLM

NBYTES, FILL = 1 << 20, 7
PROMPTS = [[5, 17, 3], [90, 4, 4, 61]]
RECEIVER = """
import pickle, sys, types, torch
device = torch.device(sys.argv[2])
receive = pickle.loads(bytes.fromhex(sys.argv[1])).open(types.SimpleNamespace(device=device))
print(int(receive(0, {nbytes}).long().sum()))
"""
RANKS = """
import os, sys, torch, torch.distributed as dist
rank = int(sys.argv[1])
os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": sys.argv[2]}
if sys.argv[3] == "nccl":
    torch.cuda.set_device(rank)
dist.init_process_group(sys.argv[3], rank=rank, world_size=2)
value = torch.ones(4, device="cuda" if sys.argv[3] == "nccl" else "cpu") * (rank + 1)
dist.all_reduce(value)
print(int(value.sum()))
"""


def _memory(platform: str, nbytes: int) -> SharedMemory | CudaIpc:
    if platform == "cpu":
        return SharedMemory(nbytes)
    from openrlhf.trainer.ray.utils import get_physical_gpu_id

    if not dist.is_initialized():  # CudaIpc needs a process group
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    return CudaIpc(nbytes, get_physical_gpu_id())


def transport(platform: str) -> str:
    """Map a buffer in another process, as policy and engine do; then all-reduce a number over two ranks."""
    memory = _memory(platform, NBYTES)
    memory.buffers[0].fill_(FILL)
    memory.fence()
    device = "cpu" if platform == "cpu" else "cuda:0"
    code = RECEIVER.format(nbytes=NBYTES)
    receiver = subprocess.run(
        [sys.executable, "-c", code, pickle.dumps(memory.address).hex(), device],
        capture_output=True, text=True, timeout=90,
    )  # fmt: skip
    kind = "shared memory" if platform == "cpu" else "CUDA IPC"
    if receiver.stdout.strip() != str(FILL * NBYTES):
        print(receiver.stderr, file=sys.stderr)
        fix = "check /dev/shm" if platform == "cpu" else "--vllm.sync_backend nccl without --train.colocate_all"
        raise Failed(f"{kind}: the other process read {receiver.stdout.strip() or 'nothing'}", fix)
    if platform != "cpu" and torch.cuda.device_count() < 2:
        return f"{kind}; one GPU, so no NCCL between ranks"
    return f"{kind}; {_two_ranks('gloo' if platform == 'cpu' else 'nccl')}"


def _two_ranks(backend: str) -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    commands = [[sys.executable, "-c", RANKS, rank, port, backend] for rank in "01"]
    ranks = [subprocess.Popen(command, **pipes) for command in commands]
    fix = "run NCCL_DEBUG=INFO rpg-check --verbose to see where"
    try:
        lines = [rank.communicate(timeout=90) for rank in ranks]
    except subprocess.TimeoutExpired:
        for rank in ranks:
            rank.kill()
        raise Failed(f"{backend} between two ranks hangs", fix) from None
    if [out.strip() for out, _ in lines] != ["12", "12"]:
        print(*(error for _, error in lines), sep="\n", file=sys.stderr)
        raise Failed(f"{backend} between two ranks fails", fix)
    return f"{backend} between two ranks"


def engine(platform: str) -> str:
    """Compare greedy answers after sleep, after a sync of the same weights, and after a sync of other weights."""
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    with tempfile.TemporaryDirectory(prefix="rpg_check_") as folder:
        first, second = _models(platform, Path(folder))
        llm = _engine(platform, Path(folder, "first"))
        before = _answers(llm)
        if platform != "cpu":
            llm.sleep(level=1)
            llm.wake_up()
            _expect(_answers(llm), before, "after sleep and wake", "run without --vllm.enable_sleep")
        fix = "use another --vllm.sync_backend, and report the output of --verbose"
        _push(platform, llm, first, 1)
        _expect(_answers(llm), before, "after a sync of the same weights", fix)
        _push(platform, llm, second, 2)
        synced = _answers(llm)
        fresh = _answers(_engine(platform, Path(folder, "second")))
        _expect(synced, fresh, "after a sync of other weights, against a fresh engine's", fix)
        if synced == before:
            raise Failed("two different models give the same answers, so this stage tests nothing", "report it")
    slept = "slept, woke, " if platform != "cpu" else ""
    return f"{slept}took the same weights and others"


def _models(platform: str, folder: Path) -> tuple[Qwen3ForCausalLM, Qwen3ForCausalLM]:
    models = []
    for seed, name in enumerate(("first", "second")):
        torch.manual_seed(seed)
        model = Qwen3ForCausalLM(tiny_config()).to(torch.float32 if platform == "cpu" else torch.bfloat16)
        for weight in model.parameters():  # large enough that greedy answers differ
            weight.data.mul_(8 if weight.ndim > 1 else 1)
        model.save_pretrained(folder / name)
        models.append(model if platform == "cpu" else model.cuda())
    return models[0], models[1]


def _engine(platform: str, model: Path) -> LLM:
    from vllm import LLM

    more = {} if platform == "cpu" else {"enable_sleep_mode": True, "gpu_memory_utilization": 0.15}
    return LLM(
        str(model), skip_tokenizer_init=True, enforce_eager=True, max_model_len=128, max_num_seqs=4, seed=0,
        dtype="float32" if platform == "cpu" else "bfloat16",
        worker_extension_cls="rpg_openrlhf.weight_sync.receiver.WeightReceiver", **more,
    )  # fmt: skip


def _answers(llm: LLM) -> list[list[int]]:
    from vllm import SamplingParams

    params = SamplingParams(temperature=0, max_tokens=16, ignore_eos=True, detokenize=False)
    prompts = [{"prompt_token_ids": prompt} for prompt in PROMPTS]
    outputs = llm.generate(prompts, params, use_tqdm=False)  # pyright: ignore[reportArgumentType]
    answers = [list(output.outputs[0].token_ids) for output in outputs]
    assert all(0 <= token < VOCABULARY for answer in answers for token in answer)
    return answers


def _push(platform: str, llm: LLM, model: Qwen3ForCausalLM, version: int) -> None:
    """Sync weights as the policy does, without Ray."""
    named = dict(model.named_parameters())
    plan = make_plan(((name, weight.shape, weight.dtype) for name, weight in named.items()), 1 << 16)
    memory = _memory(platform, max(bucket.nbytes for bucket in plan))
    llm.collective_rpc("open_weights", args=(pickle.dumps((plan, memory.address, True)),))
    sums = []
    for index, bucket in enumerate(plan):
        slot = index % memory.slots
        for view, piece in zip(bucket.views(memory.buffers[slot]), bucket.pieces, strict=True):
            view.copy_(named[piece.name].data)
        memory.fence()
        sums.append(checksum(memory.buffers[slot][: bucket.nbytes]))
        llm.collective_rpc("load_bucket", args=(version, index, slot))
    llm.collective_rpc("commit_weights", args=(version, sums))
    llm.reset_prefix_cache()


def _expect(found: list[list[int]], wanted: list[list[int]], when: str, fix: str) -> None:
    if found != wanted:
        raise Failed(f"greedy answers differ {when}", fix)
