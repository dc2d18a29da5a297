"""Policy to vLLM: by the bucket, and by OpenRLHF's loop over the parameters, on one engine in turns.

    python benchmarks/weight_sync.py --out sync.json                   # CPU: 398 tensors, 59 MB, one engine
    python benchmarks/weight_sync.py --out pack.json --device cuda     # pack and unpack 8 GB on one GPU; no engine

What is timed on the CPU is what the policy's Ray actor runs, from its first call to its last answer. OpenRLHF's loop
is its own code, `ActorPPOTrainer.broadcast_to_vllm`; its worker's half is restated below, as it receives on a GPU.
"""

import argparse
import functools
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace as Namespace

import psutil

from rpg_openrlhf import cpu_platform

if os.environ.get("RPG_PLATFORM") == "cpu":  # in vLLM's worker, which imports UpstreamReceiver from here
    cpu_platform.install()

SHAPE = {
    "vocab_size": 4096, "hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 36,
    "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 32, "max_position_embeddings": 256,
    "tie_word_embeddings": True,
}  # fmt: skip
QWEN3_4B = {
    "hidden": 2560, "inner": 9728, "query": 4096, "key": 1024, "head": 128, "layers": 36, "vocabulary": 151_936,
}  # fmt: skip
WAYS = {  # backend, MiB per bucket; None: OpenRLHF's loop
    "OpenRLHF 0.11.2, per parameter, gloo": ("gloo", None),
    "buckets of 64 MiB, gloo": ("gloo", 64),
    "buckets of 64 MiB, shared memory": ("shm", 64),
    "buckets of 8 MiB, shared memory": ("shm", 8),
}


def engine_parts() -> tuple[type, type]:
    """The Ray actor and the worker extension, which can load parameter by parameter and by the bucket."""
    import torch

    from rpg_openrlhf.sampling.engine_actor import RPGRolloutActor
    from rpg_openrlhf.weight_sync.receiver import WeightReceiver

    class UpstreamReceiver(WeightReceiver):
        def update_weight(self, name, dtype, shape, empty_cache=False):
            """Differs from upstream in the device, "cuda" there, and in printing nothing."""
            assert dtype == self.model_config.dtype
            weight = torch.empty(shape, dtype=dtype)
            self._model_update_group.broadcast(weight, src=0, stream=torch.cuda.current_stream())
            self.model_runner.model.load_weights(weights=[(name, weight)])

    class Engine(RPGRolloutActor):
        async def weights(self):
            (found,) = await self.llm.collective_rpc(
                lambda worker: {n: w.detach().clone() for n, w in worker.model_runner.model.named_parameters()}
            )
            return found

    return Engine, UpstreamReceiver


def __getattr__(name: str) -> type:
    """vLLM looks its worker extension up by name; what it is made of must not be imported before the platform is."""
    if name == "UpstreamReceiver":
        return engine_parts()[1]
    raise AttributeError(name)


class Counted:
    """An engine's handle that counts the calls made through it."""

    def __init__(self, engine):
        self.engine, self.calls = engine, 0

    def __getattr__(self, name: str):
        def remote(*args, **kwargs):
            self.calls += 1
            return getattr(self.engine, name).remote(*args, **kwargs)

        return Namespace(remote=remote)


def start(folder: Path):
    """A model of random weights and an engine of it, in a Ray of its own."""
    cpu_platform.install()
    import ray
    import torch
    import torch.distributed as dist
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    model = Qwen3ForCausalLM(Qwen3Config(**SHAPE)).to(torch.bfloat16)
    model.save_pretrained(folder)
    port = random.SystemRandom().randrange(20_000, 32_768)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=0, world_size=1)
    root = str(Path(__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # Ray's name for: no other machine joins
    ray.init(
        address="local", num_cpus=4, include_dashboard=False, log_to_driver=False,
        runtime_env={
            "env_vars": {**cpu_platform.ENVIRONMENT, "PYTHONPATH": path},
            "worker_process_setup_hook": "rpg_openrlhf.cpu_platform.install",
        },
    )  # fmt: skip
    engine = ray.remote(engine_parts()[0]).remote(
        model=str(folder), worker_extension_cls="benchmarks.weight_sync.UpstreamReceiver", dtype="bfloat16",
        distributed_executor_backend="uni", enforce_eager=True, max_model_len=256, seed=1, skip_tokenizer_init=True,
        enable_prefix_caching=False, full_determinism=False, num_gpus=0,
    )  # fmt: skip
    return model, Counted(engine)


def trainer_of(model, engine: Counted, backend: str, mib: int | None):
    """Part of the policy's trainer that a sync needs, connected to the engine."""
    from rpg_openrlhf.weight_sync.policy import BucketedSync

    trainer = object.__new__(BucketedSync)
    vllm = Namespace(
        sync_backend=backend, sync_with_ray=False, num_engines=1, tensor_parallel_size=1, enable_prefix_caching=False,
    )  # fmt: skip
    trainer.args = Namespace(vllm=vllm, ds=Namespace(zero_stage=2, tensor_parallel_size=1))
    trainer.strategy = Namespace(args=trainer.args)
    trainer.actor = Namespace(model=Namespace(module=model), is_vlm=False)
    trainer.vllm_engines, trainer.use_cuda_ipc = [engine], False
    trainer._init_vllm_sync_group(backend)
    if mib:
        trainer.bucket_bytes = mib * 2**20
        trainer.sender = trainer._connect()
    return trainer


def cpu_seconds() -> float:
    """Memory of this process and all it has started."""
    here = psutil.Process()
    times = [process.cpu_times() for process in (here, *here.children(recursive=True))]
    return sum(each.user + each.system for each in times)


def measure_sync(steps: int) -> list[dict]:
    """Every way in turn, `steps` times, each after all weights have changed; the first round is dropped."""
    with tempfile.TemporaryDirectory() as folder:
        model, engine = start(Path(folder))
        import ray
        import torch
        from openrlhf.trainer.ray.ppo_actor import ActorPPOTrainer

        from rpg_openrlhf.weight_sync.policy import BucketedSync

        results = {way: {"way": way, "seconds": [], "cpu": [], "calls": 0} for way in WAYS}
        for step in range(steps + 1):
            for way, (backend, mib) in WAYS.items():
                # A connection replaces the one before it, and its first sync touches new memory: once in a run.
                trainer = trainer_of(model, engine, backend, mib)
                ours = BucketedSync if mib else ActorPPOTrainer
                sync = functools.partial(ours.broadcast_to_vllm, trainer)
                sync()
                with torch.no_grad():
                    for weight in model.parameters():
                        weight.add_(0.01)
                engine.calls, before, begin = 0, cpu_seconds(), time.perf_counter()
                sync()
                seconds, used = time.perf_counter() - begin, cpu_seconds() - before
                if step:
                    results[way]["seconds"].append(seconds)
                    results[way]["cpu"].append(used)
                    results[way]["calls"] = engine.calls
                held, sent = ray.get(engine.engine.weights.remote()), dict(model.named_parameters())
                assert all(torch.equal(held[name], sent[name]) for name in held.keys() & sent.keys()), way
        ray.shutdown()
    return list(results.values())


def table(rows: list[dict]) -> str:
    """Markdown."""
    base = statistics.median(rows[0]["seconds"])
    lines = ["| | Ray calls | s, median | min to max | CPU s | times faster |", "|---" * 6 + "|"]
    for row in rows:
        median = statistics.median(row["seconds"])
        spread = f"{min(row['seconds']):.3f} to {max(row['seconds']):.3f}"
        cells = [row["way"], row["calls"], f"{median:.3f}", spread, f"{statistics.mean(row['cpu']):.3f}"]
        lines.append("| " + " | ".join(map(str, [*cells, f"{base / median:.1f}"])) + " |")
    return "\n".join(lines)


def shapes_of(size: dict) -> list[tuple[str, tuple[int, ...]]]:
    """Names and shapes of a Qwen3 with tied embeddings."""
    hidden, inner, query, key = (size[name] for name in ("hidden", "inner", "query", "key"))
    layer = {
        "self_attn.q_proj": (query, hidden), "self_attn.k_proj": (key, hidden), "self_attn.v_proj": (key, hidden),
        "self_attn.o_proj": (hidden, query), "self_attn.q_norm": (size["head"],), "self_attn.k_norm": (size["head"],),
        "mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden), "mlp.down_proj": (hidden, inner),
        "input_layernorm": (hidden,), "post_attention_layernorm": (hidden,),
    }  # fmt: skip
    layers = [(f"model.layers.{i}.{name}", shape) for i in range(size["layers"]) for name, shape in layer.items()]
    return [("model.embed_tokens", (size["vocabulary"], hidden)), *layers, ("model.norm", (hidden,))]


def measure_packing(steps: int, device: str, size: dict = QWEN3_4B, cap: int = 2**30) -> list[dict]:
    """Every bucket out of one set of weights and into another by way of two buffers, in one process."""
    import torch

    from rpg_openrlhf.weight_sync.plan import checksum, make_plan

    named = shapes_of(size)
    plan = make_plan(((name, shape, torch.bfloat16) for name, shape in named), cap)
    policy, engine = (
        {name: torch.empty(shape, dtype=torch.bfloat16, device=device) for name, shape in named} for _ in range(2)
    )
    for weight in policy.values():
        weight.normal_()
    largest = max(bucket.nbytes for bucket in plan)
    buffers = [torch.empty(largest, dtype=torch.uint8, device=device) for _ in range(2)]
    synchronize = torch.cuda.synchronize if device == "cuda" else lambda: None

    def once(checked: bool) -> None:
        sums = []
        for index, bucket in enumerate(plan):
            buffer, names = buffers[index % 2], [piece.name for piece in bucket.pieces]
            torch._foreach_copy_(bucket.views(buffer), [policy[name] for name in names])
            sums += [checksum(buffer[: bucket.nbytes]) for _ in range(2)] if checked else []  # by each end
            torch._foreach_copy_([engine[name] for name in names], bucket.views(buffer))

    def seconds(action: Callable[[], None]) -> list[float]:
        times = []
        for _ in range(steps + 1):
            synchronize()
            begin = time.perf_counter()
            action()
            synchronize()
            times.append(time.perf_counter() - begin)
        return times[1:]

    rows = []
    for checked in (False, True):
        times = seconds(functools.partial(once, checked))
        assert all(torch.equal(engine[name], policy[name]) for name in policy)
        nbytes = sum(bucket.nbytes for bucket in plan)
        rows.append({"checksums": checked, "bytes": nbytes, "buckets": len(plan), "seconds": times})
    return rows


def packing_table(rows: list[dict]) -> str:
    """Markdown."""
    lines = ["| GB | buckets | checksums | ms, median | min to max |", "|---" * 5 + "|"]
    for row in rows:
        times = sorted(1000 * second for second in row["seconds"])
        spread = f"{times[0]:.1f} to {times[-1]:.1f}"
        cells = [f"{row['bytes'] / 1e9:.2f}", row["buckets"], "yes" if row["checksums"] else "no"]
        lines.append("| " + " | ".join(map(str, [*cells, f"{statistics.median(times):.1f}", spread])) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description="Seconds of a weight sync.")
    parser.add_argument("--out", type=Path, required=True, help="JSON to write")
    parser.add_argument("--steps", type=int, default=15, help="measurements of each way")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    args = parser.parse_args()
    import machine  # beside this program; vLLM's worker imports this file from elsewhere

    if args.device == "cuda":
        rows = measure_packing(args.steps, "cuda")
        shown = packing_table(rows)
    else:
        rows = measure_sync(args.steps)
        shown = table(rows)
    where = machine.in_words(machine.describe(args.device))
    args.out.write_text(json.dumps({"machine": where, "rows": rows}, indent=1) + "\n")
    print(where, shown, sep="\n\n")


if __name__ == "__main__":
    main()
