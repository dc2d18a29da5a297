"""The gradient of one optimizer step over eight ragged samples, cut into micro-batches in three ways.

python gradient_of_one_step.py MODEL ZERO_STAGE OUT.pt      writes {"whole": (P,), "split": ..., "dynamic": ...}
"""

import os
import sys
from types import SimpleNamespace as Namespace

from rpg_openrlhf.launch.attempt import set_up_process

set_up_process("cpu")
os.environ.update(
    MASTER_ADDR="127.0.0.1", MASTER_PORT=str(29500 + os.getpid() % 1000), RANK="0", WORLD_SIZE="1", LOCAL_RANK="0"
)

import torch
from deepspeed.utils import safe_get_full_grad
from openrlhf.models import Actor
from openrlhf.trainer.ppo_utils.experience import Experience
from openrlhf.utils import get_strategy

from rpg_openrlhf.training.actors import RPGActorTrainer

MICRO_BATCH = {"whole": 8, "split": 2, "dynamic": 8}
ADAM = {"lr": 0.0, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.0}
OPTIMIZER = {"optim": "adam", "muon": {}, "adam": ADAM, "lr_scheduler": "constant", "lr_warmup_ratio": 0.0}


def arguments(way: str, stage: int) -> Namespace:
    """What the strategy and the trainer read."""
    dynamic = way == "dynamic"
    return Namespace(
        local_rank=-1,
        ds=Namespace(
            param_dtype="fp32", zero_stage=stage, packing_samples=dynamic, ring_attn_size=1, tensor_parallel_size=1
        ),
        train=Namespace(
            seed=0,
            micro_batch_size=MICRO_BATCH[way],
            batch_size=8,
            dynamic_batch_enable=dynamic,
            max_epochs=1,
            max_tokens_per_gpu=60,
            colocate_all=False,
            async_enable=False,
        ),
        rollout=Namespace(batch_size=8, n_samples_per_prompt=1),
        actor=Namespace(
            eps_clip_low_high=(0.2, 0.28),
            eps_clip=0.2,
            dual_clip=10.0,
            loss_agg_mode="token-mean",
            policy_loss_type="ppo",
            aux_loss_coef=0.0,
            entropy_coef=None,
        ),
        algo=Namespace(
            kl=Namespace(use_loss=False, init_coef=0),
            advantage=Namespace(
                is_correction_level="off",
                is_correction_mode="mask",
                is_correction_gating="ratio",
                is_correction_threshold=[0.5, 5.0],
            ),
        ),
        rpg=Namespace(
            divergence="urkl",
            gradient_estimator="reinforce",
            beta=1e-2,
            importance_level="token",
            on_policy=False,
            reward_weight="token",
            clip_mode="gate",
        ),
        vllm=Namespace(sync_backend="gloo"),
    )


def samples() -> list[Experience]:
    """Eight of 10 to 31 tokens; prompts of 4."""
    generator = torch.Generator().manual_seed(0)
    experiences = []
    for length in range(10, 34, 3):
        mask = torch.ones(1, length - 1, dtype=torch.long)
        mask[:, :3] = 0
        old_log_probs = -3 + 0.1 * torch.randn(1, length - 1, generator=generator)
        experiences.append(
            Experience(
                sequences=torch.randint(3, 20, (1, length), generator=generator),
                attention_mask=torch.ones(1, length, dtype=torch.long),
                action_mask=mask,
                action_log_probs=old_log_probs * mask,
                advantages=torch.randn(1, 1, generator=generator) * mask,
                total_length=torch.tensor([float(length)]),
                response_length=torch.tensor([float(length - 4)]),
                truncated=torch.tensor([False]),
            )
        )
    return experiences


def gradient(model: str, way: str, stage: int) -> torch.Tensor:
    """All parameters' gradients at the optimizer step, flat."""
    strategy = get_strategy(arguments(way, stage))
    strategy.setup_distributed()
    ds_config = strategy.get_ds_train_config()
    actor = Actor(model, "sdpa", param_dtype="fp32", ds_config=ds_config, packing_samples=way == "dynamic")
    optimizer = {**OPTIMIZER, "max_norm": 1e9, "scheduler_steps": 10}
    actor, actor_optim, scheduler = strategy.prepare((actor, optimizer))
    trainer = RPGActorTrainer(strategy, actor, None, actor_optim, scheduler, micro_train_batch_size=MICRO_BATCH[way])
    for sample in samples():
        trainer.replay_buffer.append(sample)
    gradients = []

    def observe(_optimizer, model, *args, **kwargs):
        if model.model.is_gradient_accumulation_boundary():
            parameters = list(model.model.module.parameters())
            gradients.append(torch.cat([safe_get_full_grad(p).detach().float().flatten() for p in parameters]))
        model.model.step()

    strategy.optimizer_step = observe
    trainer.ppo_train(0.0)
    assert len(gradients) == 1, f"{len(gradients)} optimizer steps"
    return gradients[0]


if __name__ == "__main__":
    model, stage, out = sys.argv[1:]
    torch.save({way: gradient(model, way, int(stage)) for way in MICRO_BATCH}, out)
