"""One rank that trains a tiny policy with whole logits and without, in every ZeRO stage: the differences as JSON.

python -m tests.integration.chunked_head_of_ranks TIED_MODEL UNTIED_MODEL OUT
with RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT set
"""

import json
import os
import sys
from pathlib import Path

from rpg_openrlhf.launch.attempt import set_up_process

set_up_process("cpu")
ENVIRONMENT = {**os.environ, "LOCAL_RANK": "0"}

import deepspeed
import torch
import torch.distributed as dist
from openrlhf.models import Actor
from openrlhf.utils import get_strategy

from rpg_openrlhf.training.chunked_head import RequiredChunkedActor
from tests.integration.gradient_of_one_step import OPTIMIZER, arguments

os.environ.update(ENVIRONMENT)  # that script is a rank of its own

RANK, WORLD = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
STEPS, MICRO_BATCHES, TEMPERATURE = 3, 2, 0.8
# ZeRO stage, tied embeddings, packed samples
CASES = {
    1: [(0, True, False), (0, False, True), (1, True, False), (2, False, False), (3, True, False), (3, False, True)],
    2: [(1, False, False), (2, True, False), (2, False, True), (3, True, False), (3, False, False), (3, True, True)],
}


def build(kind: type, model: str, stage: int, packed: bool):
    """As upstream's policy actor does, with AdamW and gradient checkpointing, in fp32."""
    args = arguments("whole", stage)
    args.train.micro_batch_size, args.train.batch_size = 4, 4 * MICRO_BATCHES * WORLD
    strategy = get_strategy(args)
    strategy.setup_distributed()
    whole = strategy.get_ds_train_config

    def with_few_persistent_weights(*given, **options):
        config = whole(*given, **options)  # by default every weight of so small a model is persistent
        config["zero_optimization"]["stage3_param_persistence_threshold"] = 200
        return config

    strategy.get_ds_train_config = with_few_persistent_weights
    config = strategy.get_ds_train_config()
    actor = kind(model, "sdpa", param_dtype="fp32", ds_config=config, packing_samples=packed, temperature=TEMPERATURE)
    actor.gradient_checkpointing_enable()
    adam = {**OPTIMIZER["adam"], "lr": 1e-3, "weight_decay": 0.01}
    optimizer = {**OPTIMIZER, "adam": adam, "max_norm": 1.0, "scheduler_steps": 10}
    actor, _, _ = strategy.prepare((actor, optimizer))
    return actor, strategy


def samples(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Four ragged sequences: padding left and right, prompts of four. Rank 1's second micro-batch has no action."""
    generator = torch.Generator().manual_seed(100 * seed + RANK)
    tokens = torch.randint(3, 100, (4, 20), generator=generator)
    present, actions = torch.ones_like(tokens), torch.zeros(4, 19, dtype=torch.long)
    for row, (first, last) in enumerate(((0, 20), (2, 17), (3, 20), (0, 12))):
        present[row, :first] = present[row, last:] = 0
        actions[row, first + 3 : last - 1] = 1
    if RANK and seed % MICRO_BATCHES:
        actions.zero_()
    return tokens, actions, present


def train(kind: type, model: str, stage: int, packed: bool) -> dict[str, torch.Tensor]:
    """Old log-probs, then steps of two micro-batches with an entropy bonus; losses and weights."""
    actor, strategy = build(kind, model, stage, packed)
    tokens, actions, present = samples(0)
    with torch.no_grad():
        old = actor.eval()(tokens, actions, present).clone()
    actor.train()
    losses, norms = [], []
    for seed in range(STEPS * MICRO_BATCHES):
        tokens, actions, present = samples(seed)
        log_probs, output = actor(tokens, actions, present, return_output=True, return_entropy=True)
        entropy = output.entropy[:, -actions.shape[1] :] * actions
        advantages = torch.randn(log_probs.shape, generator=torch.Generator().manual_seed(seed))
        loss = -((advantages * log_probs).sum() + 0.05 * entropy.sum()) / 40
        strategy.backward(loss, actor, None)
        strategy.optimizer_step(None, actor, None)
        losses.append(loss.item())
        if seed % MICRO_BATCHES:
            norms.append(float(strategy.get_grad_norm(actor)))  # 0 under ZeRO-0
    weights = []
    for weight in actor.model.module.parameters():
        with deepspeed.zero.GatheredParameters([weight], enabled=stage == 3):
            weights.append(weight.detach().flatten().clone())
    return {"old": old, "losses": torch.tensor(losses), "norms": torch.tensor(norms), "weights": torch.cat(weights)}


def main() -> None:
    tied_model, untied_model, out = sys.argv[1:]
    found = {}
    for stage, tied, packed in CASES[WORLD]:
        model = tied_model if tied else untied_model
        whole, chunked = (train(kind, model, stage, packed) for kind in (Actor, RequiredChunkedActor))
        start = torch.cat([w.flatten() for w in Actor(model, "sdpa", param_dtype="fp32").model.parameters()])
        difference = {
            name: ((chunked[name] - x).abs().max() / x.abs().max().clamp(min=1e-30)).item()
            for name, x in whole.items()
        }
        difference["moved"] = (whole["weights"] - start).abs().max().item()
        found[f"ZeRO-{stage} {'tied' if tied else 'untied'} {'packed' if packed else 'padded'}"] = difference
        print(stage, tied, packed, difference, flush=True)
    Path(out, f"rank{RANK}.json").write_text(json.dumps(found))
    dist.barrier()


if __name__ == "__main__":
    main()
