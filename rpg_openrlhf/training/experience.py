"""Old and reference log-probs reach the loss; KL stays out of the reward."""

import torch

from rpg_openrlhf.objectives.losses import rpg_token_losses
from rpg_openrlhf.training.micro_batches import ColumnMaker


class PolicyAsReference:
    """The policy's actors in the place of a reference group: asked for the log-probs of the reference they hold."""

    def __init__(self, policy_group):
        self.policy_group = policy_group

    def async_run_method_batch(self, method_name: str, **kwargs):
        """Do as RayActorGroup's, on the policy's actors, one after the other with the policy's own forward pass."""
        assert method_name == "forward", method_name
        return self.policy_group.async_run_method_batch(method_name="reference_forward", **kwargs)

    def async_run_method(self, method_name: str, *args, **kwargs):
        """Do as RayActorGroup's."""
        return self.policy_group.async_run_method(method_name, *args, **kwargs)


class KnownLogProbs(list):
    """Log-probs of the sampled tokens, (B, A) a micro-batch, in place of the result of a forward pass."""


class RPGExperienceMaker(ColumnMaker):
    """Differs from upstream, too, in whose log-probs are π_old, and in advantages without a baseline."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if self.advantage_estimator == "none":
            # Upstream picks the baseline by the name in args and spreads the reward over tokens by this one: under
            # "none" no baseline and no normalization match, and "reinforce" spreads R as it is.
            self.advantage_estimator = "reinforce"

    def make_experience(self, samples_list):
        """Differs from upstream: keeps the engines' log-probs at hand for _dispatch_forward."""
        self._rollout_log_probs = KnownLogProbs(sample.rollout_log_probs for sample in samples_list)
        experiences = super().make_experience(samples_list)
        # With one step a rollout it is what that step measures.
        measured = self.initial_model_group is not None and not self.args.rpg.on_policy
        self.kl_start = mean_kl_to_reference(experiences) if measured else None
        return experiences

    def _dispatch_forward(self, group, sync_condition, **kwargs):
        """Differs from upstream: no forward pass of the policy where its log-probs are known, or will be.

        Known from the engines under `--rpg.old_policy rollout`; with one optimizer step a rollout they are those of
        the step itself, and the loss does not read what stands here.
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
    """KL(π_old‖π_ref) a token, k3, over a whole rollout: what `policy/kl_ref_k3` is before any step is taken."""
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
