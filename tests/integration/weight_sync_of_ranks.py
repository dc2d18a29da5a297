"""One rank of several policies in turn, each syncing with the engines that weight_sync_engines.py has started.

python -m tests.integration.weight_sync_of_ranks FOLDER    with RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT, RAY_ADDRESS
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import NamedTuple

import ray
import torch

from tests.integration.reference_of_ranks import RANK, WORLD, Policy  # isort: split

from rpg_openrlhf.training.actors import StepBoundaryTrainer
from tests.integration.weight_sync_engines import NAMESPACE


class Case(NamedTuple):
    stage: int
    model: str
    engines: tuple[str, ...]
    backend: str
    bucket: int  # bytes


BOTH = ("tied-a", "tied-b")
LARGE = 2**26
CASES = {
    1: [
        Case(0, "tied1", ("tied-a",), "shm", LARGE),
        Case(2, "untied1", ("untied",), "shm", LARGE),
        Case(3, "tied0", BOTH, "shm", 100_000),
    ],
    2: [
        Case(0, "untied0", ("untied",), "shm", 100_000),
        Case(2, "tied1", BOTH, "gloo", 100_000),
        Case(3, "untied0", ("untied",), "gloo", LARGE),
        Case(3, "tied0", BOTH, "shm", 100_000),
    ],
}


class Counted:
    """An engine's handle that counts the calls made through it."""

    def __init__(self, engine):
        self.engine, self.calls = engine, []

    def __getattr__(self, name: str):
        def remote(*args, **kwargs):
            self.calls.append(name)
            return getattr(self.engine, name).remote(*args, **kwargs)

        return type("Method", (), {"remote": staticmethod(remote)})


def trainer_of(policy: Policy, case: Case, engines: list) -> StepBoundaryTrainer:
    args = policy.strategy.args
    args.vllm.sync_backend = case.backend
    args.vllm.num_engines, args.vllm.tensor_parallel_size = len(case.engines), 1
    kind = type("Trainer", (StepBoundaryTrainer,), {"bucket_bytes": case.bucket})
    return kind(policy.strategy, policy.actor, None, None, None, vllm_engines=engines)


def as_the_engine_has_them(policy: Policy) -> dict[str, torch.Tensor]:
    """All weights, whole; vLLM holds some that belong together as one."""
    flat, found = policy.weights(), {}
    for name, weight in policy.engine.module.named_parameters():
        shape = getattr(weight, "ds_shape", weight.shape)
        found[name], flat = flat[: shape.numel()].view(shape), flat[shape.numel() :]
    for whole, parts in (("qkv_proj", ("q_proj", "k_proj", "v_proj")), ("gate_up_proj", ("gate_proj", "up_proj"))):
        for name in [name for name in found if f".{parts[0]}." in name]:
            pieces = [found.pop(name.replace(parts[0], part)) for part in parts]
            found[name.replace(parts[0], whole)] = torch.cat(pieces)
    return found


def equal_bits(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def check(case: Case, folder: Path) -> dict[str, bool]:
    """Two syncs: of the weights as they were read, and after a training step."""
    policy = Policy(str(folder / case.model), case.stage, "bf16")
    engines = [Counted(ray.get_actor(name)) for name in case.engines] if RANK == 0 else []
    trainer = trainer_of(policy, case, engines)
    found = {"several buckets": (len(trainer.sender.plan) > 1) == (case.bucket < LARGE)}
    start = as_the_engine_has_them(policy)
    for sync in ("at first", "after a step"):
        if sync == "after a step":
            policy.train(1)
        ours = as_the_engine_has_them(policy)
        for engine in engines:
            engine.calls.clear()
        trainer.broadcast_to_vllm()
        for name, engine in zip(case.engines, engines, strict=bool(engines)):
            which = f"{name} {sync}"
            found[f"calls of {which}"] = len(engine.calls) == len(trainer.sender.plan) + 1
            found[f"bits of {which}"] = equal_bits(ours, ray.get(engine.engine.weights.remote()))
            log_probs, cached = ray.get(engine.engine.log_probs.remote())
            again = ray.get(engine.engine.log_probs.remote())
            found[f"nothing old in the cache of {which}"] = cached == 0 and again == (log_probs, 128)
            fresh = torch.load(folder / "fresh.pt").get(case.model)
            if fresh:
                found[f"fresh load's log-probs of {which}"] = (log_probs == fresh) == (sync == "at first")
    found["the step changed weights"] = not equal_bits(start, ours)
    return found


def check_layerwise(folder: Path) -> dict[str, bool]:
    """As a quantized engine would load: vLLM's layerwise reload, of a model whose layers are cut by small buckets."""
    case = Case(2, "untied0", ("untied",), "shm", 20_000)
    engines = [ray.get_actor(name) for name in case.engines] if RANK == 0 else []
    policy = Policy(str(folder / case.model), case.stage, "bf16")
    trainer = trainer_of(policy, case, engines)
    for engine in engines:
        ray.get(engine.call_as_if_quantized.remote())
    ours = as_the_engine_has_them(policy)
    trainer.broadcast_to_vllm()
    if RANK:
        return {}
    log_probs, _ = ray.get(engines[0].log_probs.remote())
    return {
        "layers are cut": len(trainer.sender.plan) > 7,
        "bits": equal_bits(ours, ray.get(engines[0].weights.remote())),
        "fresh load's log-probs": log_probs == torch.load(folder / "fresh.pt")[case.model],
    }


def die_in_a_sync(folder: Path) -> None:
    """kill -9 of the policy when the engine has loaded the first of several buckets."""
    case = Case(0, "tied1", ("tied-a",), "shm", 100_000)
    trainer = trainer_of(Policy(str(folder / case.model), 0, "bf16"), case, [ray.get_actor("tied-a")])

    def die(loading):
        ray.get(loading.popleft())
        maps = Path("/proc/self/maps").read_text().splitlines()
        ours = {line.split(maxsplit=5)[5] for line in maps if "weight_sync" in line and "memfd" in line}
        named = [line for line in maps if "/dev/shm/" in line and not line.endswith("(deleted)")]
        (folder / "files_of_the_killed.json").write_text(json.dumps({"memory": sorted(ours), "named": named}))
        os.kill(os.getpid(), signal.SIGKILL)

    trainer.sender._wait = die
    trainer.broadcast_to_vllm()


def main(folder: Path) -> None:
    if RANK == 0:
        ray.init(address=os.environ["RAY_ADDRESS"], namespace=NAMESPACE, log_to_driver=False)
    found = {}
    for case in CASES[WORLD]:
        found[f"ZeRO-{case.stage} {case.model} {'+'.join(case.engines)} {case.backend}"] = check(case, folder)
    if WORLD == 2:
        found["as if quantized"] = check_layerwise(folder)
    if RANK == 0:
        (folder / f"ranks{WORLD}.json").write_text(json.dumps(found))
    if WORLD == 1:
        die_in_a_sync(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
