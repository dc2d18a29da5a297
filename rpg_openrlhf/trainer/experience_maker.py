"""Old and reference log-probs reach the loss; KL stays out of the reward."""

from openrlhf.trainer.ppo_utils.experience_maker import RemoteExperienceMaker


class RolloutLogProbs(list):
    """What the engines said of the tokens they sampled, (B, A) a micro-batch, in place of a forward pass's result."""


class RPGExperienceMaker(RemoteExperienceMaker):
    """Differs from upstream in whose log-probs are π_old, and in knowing the advantage without a baseline."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if self.advantage_estimator == "none":
            # Upstream picks the baseline by the name in args and spreads the reward over tokens by this one: under
            # "none" no baseline and no normalization match, and "reinforce" spreads R as it is.
            self.advantage_estimator = "reinforce"

    def make_experience(self, samples_list):
        """Differs from upstream: keeps the engines' log-probs at hand for _dispatch_forward."""
        self._rollout_log_probs = RolloutLogProbs(sample.rollout_log_probs for sample in samples_list)
        return super().make_experience(samples_list)

    def _dispatch_forward(self, group, sync_condition, **kwargs):
        """Differs from upstream: under `--rpg.old_policy rollout` the policy makes no forward pass."""
        if group is self.actor_model_group and self.args.rpg.old_policy == "rollout":
            assert all(log_probs is not None for log_probs in self._rollout_log_probs), "engines gave no log-probs"
            return self._rollout_log_probs
        return super()._dispatch_forward(group, sync_condition, **kwargs)

    def _flatten_results(self, refs, duplicate_factor):
        """Differs from upstream: log-probs that need no fetching pass through."""
        return list(refs) if isinstance(refs, RolloutLogProbs) else super()._flatten_results(refs, duplicate_factor)
