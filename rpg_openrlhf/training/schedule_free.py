"""Schedule-Free AdamW (arXiv 2405.15682) under DeepSpeed: gradients are taken at y, all else sees the average x.

The package keeps one set of weights and z; a switch turns y into x and back in place. Under DeepSpeed those weights
are fp32 copies or partitions of them, so a switch ends with what ends a step: the module's own weights are rewritten.
Imported only where the optimizer is asked for, as the package may be missing elsewhere.
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

    ready = False  # DeepSpeed's ZeRO-0 wrapper for bf16 steps on zero gradients while it is built: decay, and a count

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Differs from the package: a tensor brings its own counters.

        ZeRO-3 steps the parts of a parameter group one after the other: counted per group, each would be a step.
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
    """The optimizer of `--actor.*`, whose scheduler is constant: the warm-up is the optimizer's own.

    A scheduler's warm-up begins at a rate of 0, a step that trains nothing; this one at 1/n, and k is saved with it.
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
    """Rebind deepspeed.initialize for a while: upstream passes it no optimizer and has no argument for one."""

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
    """The engine's weights become y. A collective: every rank calls it. At y already: nothing."""
    _switch(engine, training=True)


def to_averaged(engine: deepspeed.DeepSpeedEngine) -> None:
    """The engine's weights become x. A collective: every rank calls it. At x already: nothing."""
    _switch(engine, training=False)


def _switch(engine: deepspeed.DeepSpeedEngine, training: bool) -> None:
    inner = engine.basic_optimizer
    if inner.training == training:
        return
    with _holding_its_weights(engine.optimizer):
        inner.train() if training else inner.eval()
    _rewrite_module(engine.optimizer)


@contextlib.contextmanager
def _holding_its_weights(wrapper: object) -> Iterator[None]:
    """ZeRO-3 lends the inner optimizer its partitions for a step only; the others leave them there."""
    if not isinstance(wrapper, DeepSpeedZeroOptimizer_Stage3):
        yield
        return
    wrapper._set_fp32_optimizer_param_groups()
    yield
    wrapper._clear_fp32_optimizer_param_groups()


@torch.no_grad()
def _rewrite_module(wrapper: object) -> None:
    """The fp32 weights into the module's own (bf16, partitioned, gathered), by the wrapper's code that ends a step."""
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
    """Differs from upstream's PolicyModelActor in training at y; whatever leaves the actor is of x."""

    def init_model_from_pretrained(self, strategy, pretrain, max_steps=None, vllm_engines=None):
        """Differs from upstream: the optimizer is Schedule-Free AdamW; a checkpoint of either weights ends at x."""
        actor = strategy.args.actor
        with handed_to_deepspeed(lambda parameters: build(parameters, actor, max_steps)):
            super().init_model_from_pretrained(strategy, pretrain, max_steps, vllm_engines)
        to_averaged(self.actor.model)

    def fit(self, kl_ctl: float = 0):
        """Differs from upstream: between y and x, once a rollout; the rate logged is that of the warm-up."""
        to_training(self.actor.model)
        status = super().fit(kl_ctl)
        to_averaged(self.actor.model)
        if status:
            status["actor_lr"] = self.actor.model.basic_optimizer.param_groups[0]["scheduled_lr"]
        return status

    def forward(self, *args, **kwargs):
        """Differs from upstream: old log-probs are of the policy that sampled."""
        self._assert_averaged("old log-probs")
        return super().forward(*args, **kwargs)

    def broadcast_to_vllm(self):
        """Differs from upstream: the engines sample from x."""
        self._assert_averaged("a weight sync")
        super().broadcast_to_vllm()

    def save_model(self):
        """Differs from upstream: the model that is kept is x."""
        self._assert_averaged("a saved model")
        super().save_model()

    def save_checkpoint(self, *args, **kwargs):
        """Differs from upstream: the Hugging Face weights in it are x."""
        self._assert_averaged("a checkpoint")
        super().save_checkpoint(*args, **kwargs)

    def _assert_averaged(self, what: str) -> None:
        assert not self.actor.model.basic_optimizer.training, f"{what} at the training weights y: switch to x first"
