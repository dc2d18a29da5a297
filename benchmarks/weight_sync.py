"""Weight sync from policy to vLLM: in buckets and by OpenRLHF's loop over the parameters, on one engine in turns.

    python benchmarks/weight_sync.py --out sync.json                   # CPU: 398 tensors, 59 MB, one engine
    python benchmarks/weight_sync.py --out pack.json --device cuda     # pack and unpack 8 GB on one GPU; no engine

On the CPU, the policy's side of a sync is timed, from its first call to its last answer. OpenRLHF's loop is its own
code, `ActorPPOTrainer.broadcast_to_vllm`; upstream_receiver.py restates its worker's half.
"""

import statistics
import tempfile
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace as Namespace

import harness
from harness import OPENRLHF, Report, cells, cpu_seconds, table

WAYS = {  # backend, MiB per bucket; None: OpenRLHF's loop
    f"{OPENRLHF}, per parameter, gloo": ("gloo", None),
    "buckets of 64 MiB, gloo": ("gloo", 64),
    "buckets of 64 MiB, shared memory": ("shm", 64),
    "buckets of 8 MiB, shared memory": ("shm", 8),
}


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
    """Start Ray and an engine -> a model of random weights, and the engine's handle."""
    harness.start_ray()
    import ray
    import torch.distributed as dist

    from rpg_openrlhf.sampling.engine_actor import RPGRolloutActor

    class Engine(RPGRolloutActor):
        async def weights(self):
            (weights,) = await self.llm.collective_rpc(
                lambda worker: {n: w.detach().clone() for n, w in worker.model_runner.model.named_parameters()}
            )
            return weights

    model = harness.make_qwen3(4096, 256, 36, max_position_embeddings=256)
    model.save_pretrained(folder)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    engine = ray.remote(Engine).remote(
        model=str(folder), worker_extension_cls="upstream_receiver.UpstreamReceiver", dtype="bfloat16",
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


def sync_once(model, engine: Counted, way: str, turn: int) -> dict[str, float]:
    """Sync after all weights have changed, and compare every weight of the engine to the policy's."""
    import ray
    import torch
    from openrlhf.trainer.ray.ppo_actor import ActorPPOTrainer

    backend, mib = WAYS[way]
    # The first sync of a new connection touches new memory, once in a run: it is not timed.
    trainer = trainer_of(model, engine, backend, mib)
    sync = trainer.broadcast_to_vllm if mib else partial(ActorPPOTrainer.broadcast_to_vllm, trainer)
    sync()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.01)
    engine.calls, used, begin = 0, cpu_seconds(), time.perf_counter()
    sync()
    took = {"seconds": time.perf_counter() - begin, "cpu": cpu_seconds() - used, "calls": engine.calls}
    held, sent = ray.get(engine.engine.weights.remote()), dict(model.named_parameters())
    assert all(torch.equal(held[name], sent[name]) for name in held.keys() & sent.keys()), way
    return took


def sync_table(results: dict[str, list[dict]]) -> str:
    """Calls and seconds of every way, and its speed-up over the first."""
    medians = {way: statistics.median(turn["seconds"] for turn in turns) for way, turns in results.items()}
    base = next(iter(medians.values()))
    return table(
        {"": way, "Ray calls": turns[0]["calls"], **cells(turns, {"s [min, max]": "seconds", "CPU s": "cpu"})}
        | {"times faster": f"{base / medians[way]:.1f}"}
        for way, turns in results.items()
    )


def pack(report: Report, device: str, cap: int = 2**30) -> str:
    """Copy every bucket of Qwen3-4B from one set of weights to another through two buffers, in one process."""
    import torch

    from rpg_openrlhf.weight_sync.plan import checksum, make_plan

    with torch.device("meta"):
        shape = {"num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 9728}
        named = dict(harness.make_qwen3(151_936, 2560, 36, heads=32, **shape).named_parameters())
    plan = make_plan(((name, weight.shape, torch.bfloat16) for name, weight in named.items()), cap)
    policy, engine = ({n: torch.empty_like(w, device=device).normal_() for n, w in named.items()} for _ in range(2))
    largest = max(bucket.nbytes for bucket in plan)
    buffers = [torch.empty(largest, dtype=torch.uint8, device=device) for _ in range(2)]
    synchronize = torch.cuda.synchronize if device == "cuda" else lambda: None

    @torch.no_grad()
    def once(checked: bool, turn: int) -> dict[str, float]:
        synchronize()
        begin, sums = time.perf_counter(), []
        for index, bucket in enumerate(plan):
            buffer, names = buffers[index % 2], [piece.name for piece in bucket.pieces]
            torch._foreach_copy_(bucket.views(buffer), [policy[name] for name in names])
            sums += [checksum(buffer[: bucket.nbytes]) for _ in range(2)] if checked else []  # one by each end
            torch._foreach_copy_([engine[name] for name in names], bucket.views(buffer))
        synchronize()
        seconds = time.perf_counter() - begin
        assert all(torch.equal(engine[name], policy[name]) for name in policy)
        return {"seconds": seconds}

    results = report.in_turns({checked: partial(once, checked == "yes") for checked in ("no", "yes")}, warm=True)
    size = {"GB": f"{sum(bucket.nbytes for bucket in plan) / 1e9:.2f}", "buckets": len(plan)}
    return table(
        {**size, "checksums": checked, **cells(turns, {"ms [min, max]": "seconds"}, 1, 1000)}
        for checked, turns in results.items()
    )


def main() -> None:
    """Measure, print the table, write the JSON."""
    parser = harness.flags(__doc__, repeats=15)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    args = parser.parse_args()
    report = Report(args)
    if args.device == "cuda":
        report.show(pack(report, "cuda"))
        return
    with tempfile.TemporaryDirectory() as folder:
        model, engine = start(Path(folder))
        import ray

        results = report.in_turns({way: partial(sync_once, model, engine, way) for way in WAYS}, warm=True)
        ray.shutdown()
    report.show(sync_table(results))


if __name__ == "__main__":
    main()
