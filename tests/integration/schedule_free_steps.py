"""Twenty steps of Schedule-Free AdamW under DeepSpeed, beside the package in plain torch on the whole batch.

RANK=0 WORLD_SIZE=1 MASTER_ADDR=... MASTER_PORT=... python schedule_free_steps.py FOLDER
    rank 0 writes FOLDER/report.json: {case: {what: largest difference}}; test_schedule_free.py says what must hold
"""

import itertools
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace as Namespace

from rpg_openrlhf.launch.attempt import set_up_process

set_up_process("cpu")
os.environ["LOCAL_RANK"] = os.environ["RANK"]

import deepspeed
import pytest
import torch
from deepspeed.utils import safe_get_full_fp32_param
from openrlhf.utils import get_strategy
from schedulefree import AdamWScheduleFree

from rpg_openrlhf.training import schedule_free

RANKS, RANK = int(os.environ["WORLD_SIZE"]), int(os.environ["RANK"])
ROLLOUTS, STEPS, MICRO_BATCHES, BATCH = 5, 4, 2, 8  # of each the next: 20 steps, each of 2 micro-batches a rank
ADAM = {"lr": 1e-3, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}
MAX_NORM, WARMUP = 0.5, 0.25
CASES = {  # precision, ZeRO stage, settings beside upstream's
    "fp32-0": ("fp32", 0, {}),
    "fp32-1": ("fp32", 1, {}),
    "fp32-2": ("fp32", 2, {}),
    "fp32-3": ("fp32", 3, {}),
    "fp32-3-parts": ("fp32", 3, {"sub_group_size": 30_000}),
    "bf16-0": ("bf16", 0, {}),
    "bf16-1": ("bf16", 1, {}),
    "bf16-1-fp32-gradients": ("bf16", 1, {"grad_accum_dtype": "fp32"}),
    "bf16-2": ("bf16", 2, {}),
    "bf16-3": ("bf16", 3, {}),
}
RESUMED = ("fp32-0", "fp32-2", "fp32-3-parts", "bf16-0", "bf16-1-fp32-gradients", "bf16-3")


def make_model() -> torch.nn.Module:
    """One weight is large enough for ZeRO-3 to keep it partitioned; one layer is frozen, as under LoRA."""
    torch.manual_seed(0)
    sizes = [(8, 320), (320, 320), (320, 1)]
    layers = [layer for size in sizes for layer in (torch.nn.Linear(*size), torch.nn.Tanh())]
    frozen = torch.nn.Linear(8, 8).requires_grad_(False)
    return torch.nn.Sequential(frozen, *layers)


def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(BATCH, 8, generator=generator), torch.randn(BATCH, 1, generator=generator)


def make_engine(case: str) -> deepspeed.DeepSpeedEngine:
    """By upstream's own strategy, as the policy actor does it."""
    precision, stage, extra = CASES[case]
    extra = dict(extra)
    micro = BATCH // MICRO_BATCHES // RANKS
    args = Namespace(
        local_rank=-1,
        ds=Namespace(param_dtype=precision, zero_stage=stage, grad_accum_dtype=extra.pop("grad_accum_dtype", None)),
        train=Namespace(seed=0, micro_batch_size=micro, batch_size=BATCH, full_determinism_enable=False),
    )
    strategy = get_strategy(args)
    strategy.setup_distributed()
    ds_config = strategy.get_ds_train_config

    def with_extra(*positional, **named):
        config = ds_config(*positional, **named)
        config["zero_optimization"].update(extra)
        return config

    strategy.get_ds_train_config = with_extra
    actor = Namespace(adam=Namespace(**ADAM), lr_warmup_ratio=WARMUP)
    total = ROLLOUTS * STEPS
    cfg = {"optim": "schedulefree", "adam": ADAM, "max_norm": MAX_NORM, "scheduler_steps": total}
    cfg |= {"lr_scheduler": "constant", "lr_warmup_ratio": WARMUP}
    model = make_model().to(torch.float32 if precision == "fp32" else torch.bfloat16)
    with schedule_free.handed_to_deepspeed(lambda parameters: schedule_free.build(parameters, actor, total)):
        return strategy.prepare((model, cfg))[0]


def module_weights(engine) -> torch.Tensor:
    """What a forward pass, a sync and a save see."""
    parameters = list(engine.module.parameters())
    with deepspeed.zero.GatheredParameters(parameters, enabled=engine.zero_optimization_stage() == 3):
        return torch.cat([p.detach().flatten() for p in parameters])


def exact_weights(engine) -> torch.Tensor:
    """What the optimizer works on."""
    wrapper = engine.optimizer
    if isinstance(wrapper, schedule_free.FP16_UnfusedOptimizer):
        pairs = zip(itertools.chain(*wrapper.fp16_groups), itertools.chain(*wrapper.fp32_groups), strict=True)
        exact = {id(rounded): weight for rounded, weight in pairs}
        read = lambda p: exact.get(id(p), p)  # noqa: E731
    elif wrapper is engine.basic_optimizer:
        read = lambda p: p  # noqa: E731
    else:
        read = lambda p: safe_get_full_fp32_param(p) if p.requires_grad else gathered(p)  # noqa: E731
    return torch.cat([read(p).detach().float().flatten() for p in engine.module.parameters()])


def gathered(parameter):
    with deepspeed.zero.GatheredParameters([parameter], enabled=hasattr(parameter, "ds_id")):
        return parameter.detach().clone()


def step(engine, number: int) -> None:
    inputs, targets = batch(number)
    size = BATCH // MICRO_BATCHES // RANKS
    for micro in range(MICRO_BATCHES):
        start = (RANK * MICRO_BATCHES + micro) * size
        out = engine(inputs[start : start + size].to(module_dtype(engine)))
        engine.backward((out - targets[start : start + size]).square().mean())
        engine.step()


def module_dtype(engine):
    return next(engine.module.parameters()).dtype


def train(engine, rollouts, at_end=None) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(y, x) of the module after each rollout; at_end(rollout, "y" or "x") is called there."""
    found = []
    for rollout in rollouts:
        schedule_free.to_training(engine)
        for number in range(rollout * STEPS, (rollout + 1) * STEPS):
            step(engine, number)
        pair = []
        for name, switch in (("y", schedule_free.to_training), ("x", schedule_free.to_averaged)):
            switch(engine)
            if at_end:
                at_end(rollout, name)
            pair.append(module_weights(engine))
            assert torch.equal(pair[-1], exact_weights(engine).to(pair[-1].dtype)), f"the module's {name} is another"
        found.append(tuple(pair))
    return found


def plain() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The same in one process of torch: the whole batch, the package as it is."""
    model = make_model()
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    groups = [
        {"params": [p for name, p in trained if "bias" not in name], "weight_decay": ADAM["weight_decay"]},
        {"params": [p for name, p in trained if "bias" in name], "weight_decay": 0.0},
    ]
    settings = {name: value for name, value in ADAM.items() if name != "weight_decay"}
    optimizer = AdamWScheduleFree(groups, **settings, warmup_steps=int(WARMUP * ROLLOUTS * STEPS))
    found = []
    for rollout in range(ROLLOUTS):
        optimizer.train()
        for number in range(rollout * STEPS, (rollout + 1) * STEPS):
            inputs, targets = batch(number)
            (model(inputs) - targets).square().mean().backward()
            norm = torch.nn.utils.clip_grad_norm_([p for _, p in trained], MAX_NORM)
            assert norm > MAX_NORM, "the clip does nothing"
            optimizer.step()
            optimizer.zero_grad()
        y = torch.cat([p.detach().flatten() for p in model.parameters()])
        optimizer.eval()
        found.append((y, torch.cat([p.detach().flatten() for p in model.parameters()])))
    return found


def largest(ours, theirs) -> dict[str, float]:
    return {
        name: max((a[i].float() - b[i].float()).abs().max().item() for a, b in zip(ours, theirs, strict=True))
        for i, name in enumerate("yx")
    }


def run(case: str, folder: Path, reference) -> dict[str, float]:
    """Against plain torch; and, for some, interrupted after the second rollout, at y and at x."""
    engine = make_engine(case)
    assert not engine.basic_optimizer.training

    def save(rollout, name):
        if rollout == 1 and case in RESUMED:
            engine.save_checkpoint(str(folder / case), tag=name)

    found = train(engine, range(ROLLOUTS), save)
    report = largest(found, reference)
    states = engine.basic_optimizer.state.values()
    assert {state["k"] for state in states} == {ROLLOUTS * STEPS}, "steps counted"
    report["y - x"] = (found[-1][0].float() - found[-1][1].float()).abs().max().item()
    for name in "yx" if case in RESUMED else "":
        resumed = make_engine(case)
        resumed.load_checkpoint(str(folder / case), tag=name)
        assert resumed.basic_optimizer.training == (name == "y")
        schedule_free.to_averaged(resumed)  # as the policy actor does
        assert torch.equal(module_weights(resumed), found[1][1]), f"resumed at {name}, the weights are not x"
        report[f"resumed at {name}"] = max(largest(train(resumed, range(2, ROLLOUTS)), found[2:]).values())
    return report


def refused(case: str) -> None:
    """A step at x is impossible."""
    engine = make_engine(case)
    with pytest.raises(AssertionError, match="averaged weights"):
        step(engine, 0)


if __name__ == "__main__":
    target = Path(sys.argv[1])
    expected = plain()
    results = {case: run(case, target, expected) for case in (sys.argv[2:] or CASES)}
    if not sys.argv[2:]:
        refused("fp32-2")
    if RANK == 0:
        (target / "report.json").write_text(json.dumps(results, indent=1))
