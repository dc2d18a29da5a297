"""One rank of a tiny policy and its reference, in every ZeRO stage: what held is written as JSON, by rank.

python reference_of_ranks.py MODEL OTHER_MODEL OUT      with RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT set
"""

import itertools
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
from safetensors.torch import load_file

from rpg_openrlhf.deepspeed_states import clear_moments
from rpg_openrlhf.reference.weights import ReferenceWeights
from tests.integration.gradient_of_one_step import OPTIMIZER, arguments

os.environ.update(ENVIRONMENT)  # that script is a rank of its own

RANK, WORLD = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
CASES = [*itertools.product((0, 1, 2, 3), ("bf16",)), *([(2, "fp32")] if WORLD > 1 else [])]


class Policy:
    """As upstream builds it, with Adam and gradient checkpointing."""

    def __init__(self, model: str, stage: int, dtype: str):
        args = arguments("whole", stage)
        args.ds.param_dtype, args.train.micro_batch_size, args.train.batch_size = dtype, 4, 4 * WORLD
        strategy = get_strategy(args)
        strategy.setup_distributed()
        whole = strategy.get_ds_train_config

        def with_few_persistent_weights(*args, **kwargs):
            config = whole(*args, **kwargs)  # by default every weight of so small a model is persistent
            config["zero_optimization"]["stage3_param_persistence_threshold"] = 200
            return config

        strategy.get_ds_train_config = with_few_persistent_weights
        actor = Actor(model, "sdpa", param_dtype=dtype, ds_config=strategy.get_ds_train_config())
        actor.gradient_checkpointing_enable()
        optimizer = {**OPTIMIZER, "adam": {**OPTIMIZER["adam"], "lr": 1e-3}, "max_norm": 1.0, "scheduler_steps": 10}
        self.actor, _, _ = strategy.prepare((actor, optimizer))
        self.engine, self.strategy = self.actor.model, strategy

    def log_probs(self, seed: int = 0) -> torch.Tensor:
        """As PolicyModelActor.forward."""
        tokens, mask = samples(seed)
        self.actor.eval()
        with torch.no_grad():
            found = self.actor(tokens, mask, torch.ones_like(tokens))
        self.actor.train()
        return found.clone()

    def train(self, seed: int) -> None:
        tokens, mask = samples(seed)
        log_probs = self.actor(tokens, mask, torch.ones_like(tokens))
        self.strategy.backward(-log_probs.mean(), self.actor, None)
        self.strategy.optimizer_step(None, self.actor, None)

    def weights(self) -> torch.Tensor:
        """All of them, flat."""
        parts = []
        for weight in self.engine.module.parameters():
            with deepspeed.zero.GatheredParameters([weight], enabled=self.engine.zero_optimization_stage() == 3):
                parts.append(weight.detach().flatten().clone())
        return torch.cat(parts)


def samples(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(100 * seed + RANK)
    return torch.randint(3, 20, (4, 16), generator=generator), torch.ones(4, 15, dtype=torch.long)


def ask(policy: Policy, reference: ReferenceWeights, what: str = "log_probs") -> torch.Tensor:
    with reference.in_place():
        return getattr(policy, what)()


def check_refresh(model: str, other: str, stage: int, dtype: str, out: Path) -> dict[str, bool]:
    """A reference that replaces: asked, refreshed, saved, loaded, read from elsewhere."""
    policy = Policy(model, stage, dtype)
    reference = ReferenceWeights(policy.engine, offload=stage == 1, mixed=False)
    size = sum(held.numel() for held in reference.held)
    start = policy.log_probs()
    total = policy.weights().numel()
    found = {"partitioned": total <= size * (WORLD if stage else 1) <= 1.05 * total}
    found["start is the policy"] = torch.equal(ask(policy, reference), start)
    policy.train(1)
    policy.train(2)
    trained = policy.log_probs()
    found["policy moved"] = not torch.equal(trained, start)
    found["reference stayed"] = torch.equal(ask(policy, reference), start)
    found["policy is back"] = torch.equal(policy.log_probs(), trained)
    reference.save(out)
    dist.barrier()  # a run loads what every rank has written
    reference.refresh()
    found["refreshed is the policy"] = torch.equal(ask(policy, reference), trained)
    reference.load(out)
    found["loaded is what was saved"] = torch.equal(ask(policy, reference), start)
    try:
        with reference.in_place():
            policy.log_probs()
            raise InterruptedError
    except InterruptedError:
        found["policy is back after an error"] = torch.equal(policy.log_probs(), trained)
    reference.take(other, trust_remote_code=False)
    there = load_file(Path(other, "model.safetensors"))
    there = torch.cat([there[name].flatten() for name, _ in policy.engine.module.named_parameters()])
    kept = {"bf16": torch.bfloat16, "fp32": torch.float32}[dtype]
    found["another model"] = torch.equal(ask(policy, reference, "weights"), there.to(kept))
    found["policy is back after another model"] = torch.equal(policy.log_probs(), trained)
    clear_moments(policy.engine)
    optimizer = getattr(policy.engine.optimizer, "optimizer", policy.engine.optimizer)
    states = [torch.as_tensor(v) for state in optimizer.state.values() for v in state.values()]
    found["moments cleared"] = len(states) > 0 and not any(state.any() for state in states)
    policy.train(3)
    found["trains on"] = not torch.equal(policy.log_probs(), trained)
    return found


def check_mix(model: str, stage: int, dtype: str) -> dict[str, bool]:
    """A reference in fp32, mixed with the policy by little at every step; what it is against what it should be."""
    policy = Policy(model, stage, dtype)
    reference = ReferenceWeights(policy.engine, offload=False, mixed=True)
    expected = policy.weights().double()
    for seed in range(6):
        policy.train(seed)
        reference.refresh(0.01)
        expected = 0.01 * policy.weights().double() + 0.99 * expected
    in_use = ask(policy, reference, "weights")
    # Six mixes rounded in fp32, then once to what the forward pass uses; in bf16 throughout nothing would be added.
    bound = 8 * torch.finfo(torch.float32).eps + torch.finfo(in_use.dtype).eps / 2
    rounded = (in_use.double() - expected).abs() <= bound * expected.abs() + 1e-9
    reference.refresh(1.0)
    return {
        "mixed": bool(rounded.all()),
        "replaced": torch.equal(ask(policy, reference), policy.log_probs()),
    }


def check_untouched(model: str, stage: int, dtype: str) -> dict[str, bool]:
    """Training with a reference asked and moved between steps, against training without one."""
    ends = []
    for has_reference in (False, True):
        policy = Policy(model, stage, dtype)
        reference = ReferenceWeights(policy.engine, offload=False, mixed=True) if has_reference else None
        for seed in range(4):
            policy.train(seed)
            if reference:
                ask(policy, reference)
                reference.refresh(0.5)
                ask(policy, reference)
        ends.append((policy.weights(), policy.log_probs()))
    return {"untouched": all(torch.equal(a, b) for a, b in zip(*ends, strict=True))}


def main() -> None:
    model, other, out = sys.argv[1:]
    found = {}
    for stage, dtype in CASES:
        checks = check_refresh(model, other, stage, dtype, Path(out))
        checks |= check_mix(model, stage, dtype) | check_untouched(model, stage, dtype)
        found[f"ZeRO-{stage} {dtype}"] = checks
        print(stage, dtype, [name for name, held in checks.items() if not held], flush=True)
    Path(out, f"rank{RANK}.json").write_text(json.dumps(found))
    dist.barrier()


if __name__ == "__main__":
    main()
