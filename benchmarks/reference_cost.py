"""Cost of a reference for a rank: bytes held, seconds of a refresh, of a mix, and of standing in for the policy.

    python benchmarks/reference_cost.py --out cost.json

A Qwen3 of some 100M random weights in bf16, DeepSpeed on the CPU over gloo, one and two ranks, each ZeRO stage.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

RANK = "--rank-of"


def rank(stages: list[int], out: str) -> None:
    """One rank's measurements; rank 0 writes them."""
    from rpg_openrlhf import cpu_platform

    cpu_platform.install()
    import deepspeed
    import torch.distributed as dist

    deepspeed.init_distributed(dist_backend="gloo")
    found = [measure(stage) for stage in stages]
    if dist.get_rank() == 0:
        Path(out).write_text(json.dumps(found))


def measure(stage: int) -> dict:
    """Bytes and seconds of this rank under a ZeRO stage."""
    import torch.distributed as dist

    from rpg_openrlhf.reference.weights import ReferenceWeights

    def stand_in(weights: ReferenceWeights) -> None:
        with weights.in_place():
            pass

    engine = engine_of(stage)
    replaced = ReferenceWeights(engine, offload=False, mixed=False)
    mixed = ReferenceWeights(engine, offload=False, mixed=True)
    return {
        "ranks": dist.get_world_size(),
        "stage": stage,
        "parameters": sum(getattr(weight, "ds_numel", weight.numel()) for weight in engine.module.parameters()),
        "bytes": sum(held.numel() * held.element_size() for held in replaced.held),
        "bytes_mixed": sum(held.numel() * held.element_size() for held in mixed.held),
        "refresh": median(replaced.refresh),
        "mix": median(partial(mixed.refresh, 0.1)),
        "stand_in": median(partial(stand_in, replaced)),
    }


def engine_of(stage: int):
    """DeepSpeed's engine of the model."""
    import deepspeed
    import torch
    from openrlhf.utils.deepspeed.deepspeed_utils import get_train_ds_config
    from transformers import AutoModelForCausalLM, Qwen3Config

    config = Qwen3Config(
        vocab_size=32_000, hidden_size=640, intermediate_size=1920, num_hidden_layers=12, num_attention_heads=10,
        num_key_value_heads=5, head_dim=64, tie_word_embeddings=False,
    )  # fmt: skip
    settings = get_train_ds_config(offload=False, adam_offload=False, stage=stage, zpg=1)
    settings["train_micro_batch_size_per_gpu"] = 1
    settings["optimizer"] = {"type": "AdamW", "params": {"lr": 1e-6, "torch_adam": True}}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    engine, *_ = deepspeed.initialize(model=model, model_parameters=model.parameters(), config=settings)
    return engine


def median(action: Callable[[], None]) -> float:
    """Seconds of five turns, all ranks together."""
    import torch.distributed as dist

    times = []
    for _ in range(5):
        dist.barrier()
        start = time.perf_counter()
        action()
        dist.barrier()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def table(rows: list[dict]) -> str:
    """Markdown."""
    head = ["ranks", "ZeRO", "held, MB a rank", "in fp32", "refresh, ms", "mix, ms", "in and out, ms"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for row in rows:
        cells = [row["ranks"], row["stage"], f"{row['bytes'] / 1e6:.0f}", f"{row['bytes_mixed'] / 1e6:.0f}"]
        cells += [f"{1000 * row[name]:.0f}" for name in ("refresh", "mix", "stand_in")]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def main() -> None:
    """Start the ranks, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description="Seconds and bytes of a reference, by ZeRO stage.")
    parser.add_argument("--out", type=Path, required=True, help="JSON to write")
    args = parser.parse_args()
    rows = []
    for world in (1, 2):
        port = str(random.SystemRandom().randrange(20_000, 32_768))
        env = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(world)}
        command = [sys.executable, __file__, RANK, str(args.out)]
        ranks = [
            subprocess.Popen(command, env={**env, "RANK": str(number), "LOCAL_RANK": "0"}) for number in range(world)
        ]
        if any([each.wait() for each in ranks]):
            sys.exit(1)
        rows += json.loads(args.out.read_text())
    args.out.write_text(json.dumps(rows, indent=1) + "\n")
    print(f"{rows[0]['parameters'] / 1e6:.0f}M parameters, bf16", table(rows), sep="\n\n")


if __name__ == "__main__":
    if sys.argv[1:2] == [RANK]:
        rank([0, 1, 2, 3], sys.argv[2])
    else:
        main()
