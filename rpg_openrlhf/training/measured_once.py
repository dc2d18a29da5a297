"""Metrics of a training phase, reduced over the ranks once.

Upstream reduces each number of each micro-batch: 17 blocking collectives per micro-batch, each of which also waits for
the GPU.
"""

import math

import torch
from openrlhf.trainer.ray.ppo_actor import ActorPPOTrainer

from rpg_openrlhf.errors import NotFinite

LAST = ("actor_lr", "actor_grad_norm")  # values of the last step, the same on every rank


CHECKED = ("policy_loss", "actor_grad_norm")
INPUTS = {
    "advantages": "the advantages",
    "rollout_log_probs": "the engines' log-probs",
    "action_log_probs": "the old policy's log-probs",
    "base_action_log_probs": "the reference's log-probs",
}


def check_finite(metrics: dict[str, float], experience) -> None:
    """Raise NotFinite if a step's loss or gradient norm is not finite, and name the input that caused it."""
    wrong = [name for name in CHECKED if not math.isfinite(metrics.get(name, 0.0))]
    if not wrong:
        return
    mask = experience.action_mask.bool()
    inputs = {text: getattr(experience, name, None) for name, text in INPUTS.items()}
    bad = [text for text, tensor in inputs.items() if tensor is not None and not torch.isfinite(tensor[mask]).all()]
    cause = bad[0] if bad else "the policy's own log-probs or gradient"
    raise NotFinite(
        f"{wrong[0]} is {metrics[wrong[0]]}: {cause} {'are' if bad else 'is'} not finite; training has diverged. "
        "Lower --actor.adam.lr or --actor.max_norm, and resume from an earlier checkpoint"
    )


def means_of(tensors: dict[str, torch.Tensor]) -> dict[str, float]:
    """Mean of each tensor, with one wait per device: reward models, critics and agents report on the CPU."""
    means: dict[str, float] = {}
    for device in {tensor.device for tensor in tensors.values()}:
        names = [name for name, tensor in tensors.items() if tensor.device == device]
        stacked = torch.stack([tensors[name].float().mean() for name in names])
        means |= dict(zip(names, stacked.tolist(), strict=True))
    return {name: means[name] for name in tensors}


class ReduceLater:
    """Wrapper of upstream's strategy for ppo_train: a micro-batch's numbers stay local; their weights are added up."""

    def __init__(self, strategy):
        self._strategy = strategy
        self.weights = {"token": 0.0, "sample": 0.0}

    def __getattr__(self, name: str):
        return getattr(self._strategy, name)

    def all_reduce(self, data, op="mean"):
        """Reduce as the strategy does, except for a micro-batch's numbers (a dictionary)."""
        if not isinstance(data, dict):
            return self._strategy.all_reduce(data, op)
        self.weights["token"] += data["_num_action_tokens"]
        self.weights["sample"] += data["_num_samples"]
        return dict(data)


class MeasuredOnce(ActorPPOTrainer):
    """Differs from upstream's ActorPPOTrainer in reducing metrics once, and in copying them from a GPU together."""

    def training_step(self, experience, kl_ctl, step, loss_batch_info=None):
        """Differs from upstream: metrics come to the CPU together, as the means that ppo_train takes of them."""
        status = super().training_step(experience, kl_ctl, step, loss_batch_info)
        tensors = {name: value for name, value in status["metrics"].items() if isinstance(value, torch.Tensor)}
        status["metrics"] |= means_of(tensors)
        check_finite(status["metrics"], experience)
        self._kinds = status["weights"]
        return status

    def ppo_train(self, kl_ctl: float) -> dict[str, float]:
        """Differs from upstream: takes means over this rank's tokens or samples first, then over all ranks'."""
        strategy = self.strategy
        self.strategy = later = ReduceLater(strategy)
        try:
            status = super().ppo_train(kl_ctl)
        finally:
            self.strategy = strategy
        if not status or strategy.world_size == 1:
            return status
        names = sorted(name for name in status if name not in LAST)
        kinds = ["token" if self._kinds[name] == "token" else "sample" for name in names]
        sums = [status[name] * later.weights[kind] for name, kind in zip(names, kinds, strict=True)]
        totals = torch.tensor([*sums, *later.weights.values()], dtype=torch.float64)
        *sums, tokens, samples = strategy.all_reduce(totals, op="sum").tolist()
        weights = {"token": tokens, "sample": samples}
        return status | {name: total / weights[kind] for name, kind, total in zip(names, kinds, sums, strict=True)}
