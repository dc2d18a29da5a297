"""RPG's experience maker: old and reference log-probs go to the loss, and no KL goes into the reward."""

import torch

from rpg_openrlhf.objectives.losses import rpg_token_losses
from rpg_openrlhf.training.micro_batches import ColumnMaker


class PolicyAsReference:
    """Group of reference actors that asks the policy's actors for the log-probs of the reference that they hold."""

    def __init__(self, policy_group):
        self.policy_group = policy_group

    def async_run_method_batch(self, method_name: str, **kwargs):
        """Call RayActorGroup's method on the policy's actors. Its order relative to their own forward pass is free."""
        assert method_name == "forward", method_name
        return self.policy_group.async_run_method_batch(method_name="reference_forward", **kwargs)

    def async_run_method(self, method_name: str, *args, **kwargs):
        """Call RayActorGroup's method on the policy's actors."""
        return self.policy_group.async_run_method(method_name, *args, **kwargs)


class KnownLogProbs(list):
    """Log-probs of the sampled tokens, (B, A) per micro-batch, that replace the result of a forward pass."""


class RPGExperienceMaker(ColumnMaker):
    """Differs from upstream, beyond ColumnMaker, in the source of π_old's log-probs and in baseline none."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if self.advantage_estimator == "none":
            # Upstream selects baseline and normalization by args.algo.advantage.estimator, and "none" matches neither.
            # It spreads the reward over tokens by self.advantage_estimator, and "reinforce" leaves R unchanged.
            self.advantage_estimator = "reinforce"

    def make_experience(self, samples_list):
        """Differs from upstream: keeps the engines' log-probs for _dispatch_forward, and measures the initial KL."""
        self._rollout_log_probs = KnownLogProbs(sample.rollout_log_probs for sample in samples_list)
        experiences = super().make_experience(samples_list)
        # Skipped with one optimizer step per rollout: that step's kl_ref_k3 is already this number.
        measured = self.initial_model_group is not None and not self.args.rpg.on_policy
        self.kl_start = mean_kl_to_reference(experiences) if measured else None
        return experiences

    def _dispatch_forward(self, group, sync_condition, **kwargs):
        """Differs from upstream: no forward pass of the policy if its log-probs are known or not needed.

        The engines give them under `--rpg.old_policy rollout`. With one optimizer step per rollout they are those of
        the step itself, and the loss ignores the zeros returned here.
        """
        if group is self.actor_model_group and self.args.rpg.on_policy:
            return KnownLogProbs(torch.zeros(mask.shape) for mask in kwargs["action_mask"])
        if group is self.actor_model_group and self.args.rpg.old_policy == "rollout":
            assert all(log_probs is not None for log_probs in self._rollout_log_probs), "engines gave no log-probs"
            return self._rollout_log_probs
        return super()._dispatch_forward(group, sync_condition, **kwargs)

    def _flatten_results(self, refs, duplicate_factor):
        """Differs from upstream: log-probs that need no fetching pass through."""
        return list(refs) if isinstance(refs, KnownLogProbs) else super()._flatten_results(refs, duplicate_factor)


def mean_kl_to_reference(experiences) -> float:
    """KL(π_old‖π_ref) per token, k3, over a whole rollout: the value of `policy/kl_ref_k3` before the first step."""
    total = tokens = 0.0
    for experience in experiences:
        old, mask = experience.action_log_probs, experience.action_mask
        objective = {"divergence": "urkl", "gradient_estimator": "reinforce", "beta": 0.0}
        stats = rpg_token_losses(
            old, old, torch.zeros_like(old), experience.base_action_log_probs, mask, **objective
        ).stats
        total += stats["kl_ref_k3"].double().sum().item()
        tokens += mask.sum().item()
    return total / max(tokens, 1.0)
