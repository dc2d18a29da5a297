"""Schedule-Free AdamW (arXiv 2405.15682) under DeepSpeed: gradients are taken at y, all else uses the average x.

The package keeps one set of weights and z, and switches the weights between y and x in place. Under DeepSpeed these
are fp32 copies or partitions of copies, so the module's own weights are rewritten after a switch, as after a step.
This module is imported only for runs with this optimizer, because the package is optional.
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import deepspeed
import torch
from deepspeed.runtime.bf16_optimizer import BF16_Optimizer
from deepspeed.runtime.fp16.unfused_optimizer import FP16_UnfusedOptimizer
from deepspeed.runtime.zero.stage3 import DeepSpeedZeroOptimizer_Stage3
from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer
from openrlhf.utils.deepspeed import deepspeed as strategy_module
from schedulefree import AdamWScheduleFree

from rpg_openrlhf.training.actors import RPGPolicyActor

COUNTERS = {"k": 0, "weight_sum": 0.0, "lr_max": -1.0}  # numbers that a step advances, with their start values


class ScheduleFreeAdamW(AdamWScheduleFree):
    """Differs from the package's in counting steps per tensor, and in refusing what DeepSpeed would do silently."""

    ready = False  # DeepSpeed's bf16 wrapper (ZeRO 0) takes a step while it is built, which would decay and count

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Differs from the package: each tensor has its own counters.

        ZeRO-3 steps the parts of a parameter group one after the other. A counter per group would count every part.
        """
        if not self.ready:
            return None
        assert self.training, "an optimizer step at the averaged weights x: switch to train first"
        for group in self.param_groups:
            for first in group["params"][:1]:
                group.update({name: self.state[first].get(name, start) for name, start in COUNTERS.items()})
        loss = super().step(closure)
        for group in self.param_groups:
            for tensor in group["params"]:
                self.state[tensor].update({name: group[name] for name in COUNTERS})
        return loss

    @property
    def training(self) -> bool:
        """True while the weights are y. The package keeps it in its parameter groups, and so in every checkpoint."""
        return self.param_groups[0]["train_mode"]


def build(parameters: list[dict], actor: SimpleNamespace, total_steps: int) -> ScheduleFreeAdamW:
    """Build the optimizer of `--actor.*`. Its scheduler is constant, since the optimizer has its own warm-up.

    A scheduler's warm-up begins at a rate of 0, so its first step trains nothing. This one begins at 1/n, and its step
    count k is saved with the optimizer.
    """
    adam = actor.adam
    return ScheduleFreeAdamW(
        parameters,
        lr=adam.lr,
        betas=tuple(adam.betas),
        eps=adam.eps,
        weight_decay=adam.weight_decay,
        warmup_steps=math.ceil(total_steps * actor.lr_warmup_ratio),
    )


@contextlib.contextmanager
def handed_to_deepspeed(optimizer_of: Callable[[list[dict]], ScheduleFreeAdamW]) -> Iterator[None]:
    """Rebind deepspeed.initialize inside the context: upstream passes it no optimizer and has no argument for one."""

    def initialize(**asked) -> tuple:
        config = {name: value for name, value in asked["config"].items() if name != "optimizer"}
        config["zero_allow_untested_optimizer"] = True
        optimizer = optimizer_of(asked["model_parameters"])
        built = deepspeed.initialize(**{**asked, "config": config, "optimizer": optimizer})
        optimizer.ready = True
        return built

    strategy_module.deepspeed = SimpleNamespace(**{**vars(deepspeed), "initialize": initialize})
    try:
        yield
    finally:
        strategy_module.deepspeed = deepspeed


def to_training(engine: deepspeed.DeepSpeedEngine) -> None:
    """Switch the engine's weights to y, if they are not y already. A collective: every rank calls it."""
    _switch(engine, training=True)


def to_averaged(engine: deepspeed.DeepSpeedEngine) -> None:
    """Switch the engine's weights to x, if they are not x already. A collective: every rank calls it."""
    _switch(engine, training=False)


def _switch(engine: deepspeed.DeepSpeedEngine, training: bool) -> None:
    inner = engine.basic_optimizer
    if inner.training == training:
        return
    with _attached_weights(engine.optimizer):
        inner.train() if training else inner.eval()
    _rewrite_module(engine.optimizer)


@contextlib.contextmanager
def _attached_weights(wrapper: object) -> Iterator[None]:
    """Give the inner optimizer its weights: ZeRO-3 does so only during a step, the other wrappers permanently."""
    if not isinstance(wrapper, DeepSpeedZeroOptimizer_Stage3):
        yield
        return
    wrapper._set_fp32_optimizer_param_groups()
    yield
    wrapper._clear_fp32_optimizer_param_groups()


@torch.no_grad()
def _rewrite_module(wrapper: object) -> None:
    """Copy the fp32 weights to the module's own (bf16, partitioned, gathered), as the wrapper does after a step."""
    if isinstance(wrapper, DeepSpeedZeroOptimizer_Stage3):
        wrapper._partition_all_parameters()
        for part in range(len(wrapper.fp16_groups)):
            wrapper._reassign_or_swap_out_partitioned_parameters(part)
        wrapper._post_step(set())  # gathers the small parameters that stay whole
    elif isinstance(wrapper, DeepSpeedZeroOptimizer | BF16_Optimizer):
        wrapper.update_lp_params()
    elif isinstance(wrapper, FP16_UnfusedOptimizer):
        for exact, rounded in zip(wrapper.fp32_groups, wrapper.fp16_groups, strict=True):
            for source, target in zip(exact, rounded, strict=True):
                target.data.copy_(source.data)
    else:  # fp32 without ZeRO: the optimizer's weights are the module's
        assert isinstance(wrapper, ScheduleFreeAdamW), f"{type(wrapper).__name__}: unknown to Schedule-Free AdamW"


class ScheduleFreePolicyActor(RPGPolicyActor):
    """Differs from upstream's PolicyModelActor in training at y; everything that leaves the actor uses x."""

    def init_model_from_pretrained(self, strategy, pretrain, max_steps=None, vllm_engines=None):
        """Differs from upstream: the optimizer is Schedule-Free AdamW; the weights end at x, also after a resume."""
        actor = strategy.args.actor
        with handed_to_deepspeed(lambda parameters: build(parameters, actor, max_steps)):
            super().init_model_from_pretrained(strategy, pretrain, max_steps, vllm_engines)
        to_averaged(self.actor.model)

    def fit(self, kl_ctl: float = 0):
        """Differs from upstream: switches to y and back to x; logs the learning rate of the optimizer's warm-up."""
        to_training(self.actor.model)
        status = super().fit(kl_ctl)
        to_averaged(self.actor.model)
        if status:
            status["actor_lr"] = self.actor.model.basic_optimizer.param_groups[0]["scheduled_lr"]
        return status

    def forward(self, *args, **kwargs):
        """Differs from upstream: asserts x, since old log-probs are those of the policy that sampled."""
        self._assert_averaged("old log-probs")
        return super().forward(*args, **kwargs)

    def broadcast_to_vllm(self):
        """Differs from upstream: asserts x, from which the engines sample."""
        self._assert_averaged("a weight sync")
        super().broadcast_to_vllm()

    def save_model(self):
        """Differs from upstream: asserts x, which is the model to save."""
        self._assert_averaged("a saved model")
        super().save_model()

    def save_checkpoint(self, *args, **kwargs):
        """Differs from upstream: asserts x, which the checkpoint's Hugging Face model must hold."""
        self._assert_averaged("a checkpoint")
        super().save_checkpoint(*args, **kwargs)

    def _assert_averaged(self, what: str) -> None:
        assert not self.actor.model.basic_optimizer.training, f"{what} at the training weights y: switch to x first"
