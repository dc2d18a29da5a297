"""Two steps with some settings, a checkpoint, and a third step with others, under DeepSpeed.

python resumed_optimizer.py ZERO_STAGE FOLDER      prints the largest difference to torch's AdamW with the same moments
"""

import os
import sys
from functools import partial

from rpg_openrlhf.launch.attempt import set_up_process

set_up_process("cpu")
os.environ.update(
    MASTER_ADDR="127.0.0.1", MASTER_PORT=str(29500 + os.getpid() % 1000), RANK="0", WORLD_SIZE="1", LOCAL_RANK="0"
)

import deepspeed
import torch
from transformers.trainer import get_scheduler

from rpg_openrlhf.deepspeed_states import optimizer_settings, restore_optimizer_settings

BEFORE = {"lr": 1e-2, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.0}
AFTER = {"lr": 1e-3, "betas": (0.5, 0.6), "eps": 1e-4, "weight_decay": 0.3}
INPUTS = torch.randn(3, 8, generator=torch.Generator().manual_seed(1))


def model() -> torch.nn.Linear:
    torch.manual_seed(0)
    return torch.nn.Linear(8, 4)


def engine(stage: int, settings: dict, schedule: str):
    config = {
        "train_batch_size": 1,
        "gradient_clipping": 0.0,
        "zero_optimization": {"stage": stage},
        "optimizer": {"type": "AdamW", "params": {**settings, "betas": list(settings["betas"]), "torch_adam": True}},
    }
    linear = model()
    scheduler = partial(get_scheduler, schedule, num_warmup_steps=0, num_training_steps=10)
    built, *_ = deepspeed.initialize(
        model=linear, model_parameters=linear.parameters(), config=config, lr_scheduler=lambda o: scheduler(o)
    )
    return built


def step(built, index: int) -> None:
    built.backward(built(INPUTS[index : index + 1]).square().sum())
    built.step()


def weights(built) -> torch.Tensor:
    parameters = list(built.module.parameters())
    with deepspeed.zero.GatheredParameters(parameters, enabled=built.zero_optimization_stage() == 3):
        return torch.cat([parameter.detach().flatten().clone() for parameter in parameters])


def expected() -> torch.Tensor:
    """The same three steps by torch alone; the linear schedule over ten steps is at 0.8 in the third."""
    linear = model()
    optimizer = torch.optim.AdamW(linear.parameters(), **BEFORE)
    for index in range(3):
        if index == 2:
            optimizer.param_groups[0].update({**AFTER, "lr": 0.8 * AFTER["lr"]})
        optimizer.zero_grad()
        linear(INPUTS[index : index + 1]).square().sum().backward()
        optimizer.step()
    return torch.cat([parameter.detach().flatten() for parameter in linear.parameters()])


if __name__ == "__main__":
    stage, folder = int(sys.argv[1]), sys.argv[2]
    deepspeed.init_distributed(dist_backend="gloo")
    first = engine(stage, BEFORE, "constant")
    for index in range(2):
        step(first, index)
    first.save_checkpoint(folder, tag="two")
    second = engine(stage, AFTER, "linear")
    settings = optimizer_settings(second)
    second.load_checkpoint(folder, tag="two")
    restore_optimizer_settings(second, settings)
    step(second, 2)
    print("difference", (weights(second) - expected()).abs().max().item())
