"""Steps of training under DeepSpeed as one rank of WORLD_SIZE, from a checkpoint of other ranks, to a checkpoint.

python -m tests.integration.resharded_steps STAGE KIND STEPS TO [FROM RANKS_THERE]
KIND is fp32, bf16 or schedulefree; prints the losses, and whether what was loaded equals what was saved
"""

import json
import os
import sys
from functools import partial
from pathlib import Path

from rpg_openrlhf.launch.attempt import set_up_process

set_up_process("cpu")

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.utils import (
    lazy_init_hp_params_optimizer_state,
    safe_get_full_fp32_param,
    safe_get_full_optimizer_state,
)
from transformers import Qwen2Config, Qwen2ForCausalLM
from transformers.trainer import get_scheduler

from rpg_openrlhf.reference.weights import ReferenceWeights
from rpg_openrlhf.runs import resharding
from rpg_openrlhf.training.schedule_free import ScheduleFreeAdamW, to_training

RANK, WORLD = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
BATCH, LENGTH, VOCABULARY = 4, 9, 97
# Sizes that neither two ranks nor an alignment divides.
SHAPE = {"hidden_size": 36, "intermediate_size": 51, "num_hidden_layers": 2, "vocab_size": VOCABULARY}


def build(stage: int, kind: str, seed: int) -> deepspeed.DeepSpeedEngine:
    torch.manual_seed(seed)
    model = Qwen2ForCausalLM(Qwen2Config(**SHAPE, num_attention_heads=2, num_key_value_heads=1))
    weights = dict(model.named_parameters())
    groups = [
        {"params": [w for w in weights.values() if w.dim() > 1], "weight_decay": 0.3},
        {"params": [w for w in weights.values() if w.dim() == 1], "weight_decay": 0.0},
    ]
    config = {
        "train_micro_batch_size_per_gpu": BATCH // WORLD,
        "gradient_clipping": 1.0,
        "zero_optimization": {"stage": stage, "stage3_param_persistence_threshold": 40},
        "zero_allow_untested_optimizer": True,
        "bf16": {"enabled": kind == "bf16"},
    }
    schedule = partial(get_scheduler, "linear", num_warmup_steps=2, num_training_steps=20)
    optimizer = (ScheduleFreeAdamW if kind == "schedulefree" else torch.optim.AdamW)(groups, lr=1e-2)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config, lr_scheduler=schedule)
    if kind == "schedulefree":
        optimizer.ready = True
        to_training(engine)
    return engine


def step(engine: deepspeed.DeepSpeedEngine) -> float:
    generator = torch.Generator().manual_seed(engine.global_steps)
    tokens = torch.randint(0, VOCABULARY, (BATCH, LENGTH), generator=generator).chunk(WORLD)[RANK]
    loss = engine(input_ids=tokens, labels=tokens).loss
    engine.backward(loss)
    engine.step()
    loss = loss.detach().float()
    dist.all_reduce(loss)
    return loss.item() / WORLD


def held(engine: deepspeed.DeepSpeedEngine) -> dict[str, torch.Tensor]:
    """Weights in fp32, weights in use and moments, all whole."""
    found = {}
    optimizer = engine.optimizer
    if engine.zero_optimization_stage() != 3:  # what DeepSpeed does in a step, with the states it has then
        for weights, flat in zip(optimizer.bit16_groups, optimizer.single_partition_of_fp32_groups, strict=True):
            lazy_init_hp_params_optimizer_state(weights, flat, optimizer.optimizer.state)
    for name, weight in engine.module.named_parameters():
        with deepspeed.zero.GatheredParameters([weight], enabled=engine.zero_optimization_stage() == 3):
            found[name] = weight.detach().clone()
        found[f"{name} fp32"] = safe_get_full_fp32_param(weight).clone()
        for moment in ("exp_avg_sq", "z") if "k" in optimizer.param_groups[0] else ("exp_avg_sq", "exp_avg"):
            found[f"{name} {moment}"] = safe_get_full_optimizer_state(weight, moment).clone()
    return found


def main(stage: int, kind: str, steps: int, to: Path, source: Path | None, ranks_there: int) -> None:
    deepspeed.init_distributed(dist_backend="gloo")
    engine = build(stage, kind, seed=1 if source else 0)
    reference = ReferenceWeights(engine, offload=False, mixed=False)
    wrong: list[str] = []
    if source:
        resharding.load(engine, source / "tag", ranks_there)
        reference.load(source / "tag")
        there = torch.load(source / "held.pt")
        wrong = [name for name, values in held(engine).items() if not torch.equal(values, there[name])]
    losses = [step(engine) for _ in range(steps)]
    with reference.in_place():
        asked = step_of_reference(engine)
    engine.save_checkpoint(str(to), tag="tag")
    resharding.write_places(engine, to / "tag")
    reference.save(to / "tag")
    now = held(engine)
    if RANK == 0:
        torch.save(now, to / "held.pt")
        print(json.dumps({"losses": losses, "wrong": wrong, "reference": asked, "steps": engine.global_steps}))


def step_of_reference(engine: deepspeed.DeepSpeedEngine) -> float:
    """A loss of the reference, on tokens that are always the same."""
    tokens = torch.arange(2 * LENGTH).reshape(2, LENGTH)
    with torch.no_grad():
        return engine(input_ids=tokens, labels=tokens).loss.float().item()


if __name__ == "__main__":
    stage, kind, steps, to, *there = sys.argv[1:]
    source, ranks = (Path(there[0]), int(there[1])) if there else (None, 0)
    main(int(stage), kind, int(steps), Path(to), source, ranks)
