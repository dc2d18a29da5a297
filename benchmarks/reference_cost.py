"""Cost of a reference on a rank: bytes held, seconds of a refresh, of a mix, and of a swap with the policy.

    python benchmarks/reference_cost.py --out cost.json

A Qwen3 of some 100M random weights in bf16, DeepSpeed on the CPU over gloo, one and two ranks, each ZeRO stage.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import harness
from harness import Report, table

STAGES = (0, 1, 2, 3)


def measure(stage: int) -> dict:
    """Bytes and seconds of this rank under a ZeRO stage."""
    import deepspeed
    import torch.distributed as dist
    from openrlhf.utils.deepspeed.deepspeed_utils import get_train_ds_config

    from rpg_openrlhf.reference.weights import ReferenceWeights

    def stand_in(weights: ReferenceWeights) -> None:
        with weights.in_place():
            pass

    def seconds(action: Callable[[], None]) -> float:
        """Median of five turns, all ranks together."""
        times = []
        for _ in range(5):
            dist.barrier()
            begin = time.perf_counter()
            action()
            dist.barrier()
            times.append(time.perf_counter() - begin)
        return statistics.median(times)

    model = harness.make_qwen3(32_000, 640, 12, heads=10, head_dim=64, tie_word_embeddings=False)
    settings = get_train_ds_config(offload=False, adam_offload=False, stage=stage, zpg=1)
    settings["train_micro_batch_size_per_gpu"] = 1
    settings["optimizer"] = {"type": "AdamW", "params": {"lr": 1e-6, "torch_adam": True}}
    engine, *_ = deepspeed.initialize(model=model, model_parameters=model.parameters(), config=settings)
    replaced, mixed = (ReferenceWeights(engine, offload=False, mixed=is_mixed) for is_mixed in (False, True))
    held, held_fp32 = (sum(each.numel() * each.element_size() for each in w.held) for w in (replaced, mixed))
    actions = {
        "refresh, ms": replaced.refresh,
        "mix, ms": partial(mixed.refresh, 0.1),
        "in and out, ms": partial(stand_in, replaced),
    }
    row = {"ranks": dist.get_world_size(), "ZeRO": stage}
    row |= {"held, MB a rank": f"{held / 1e6:.0f}", "in fp32": f"{held_fp32 / 1e6:.0f}"}
    return row | {title: f"{1000 * seconds(action):.0f}" for title, action in actions.items()}


def rank(number: int, world: int, meeting: str) -> list[dict]:
    """Measurements of one rank; ranks connect through the file `meeting`."""
    from rpg_openrlhf import cpu_platform

    cpu_platform.install()
    import deepspeed
    import torch.distributed as dist

    os.environ |= {"RANK": str(number), "LOCAL_RANK": "0", "WORLD_SIZE": str(world)}
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=number, world_size=world)
    deepspeed.init_distributed("gloo")
    return [measure(stage) for stage in STAGES]


def ranks(world: int, turn: int) -> list[dict]:
    """Rows that rank 0 of `world` ranks measures."""
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor() as pool:
        rows, *_ = pool.map(lambda number: harness.alone(rank, number, world, f"{folder}/meeting"), range(world))
        return rows


def main() -> None:
    """Start the ranks, print the table, write the JSON."""
    report = Report(harness.flags(__doc__, repeats=1).parse_args())
    results = report.in_turns({f"{world} ranks": partial(ranks, world) for world in (1, 2)})
    report.show("100M parameters, bf16", table(row for turns in results.values() for rows in turns for row in rows))


if __name__ == "__main__":
    main()
