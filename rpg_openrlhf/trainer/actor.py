"""The policy's training step and the Ray actors that hold models: bind what differs, then delegate."""

from openrlhf.trainer.ray import ppo_actor
from openrlhf.trainer.ray.ppo_actor import ActorPPOTrainer, PolicyModelActor

from rpg_openrlhf.trainer.policy_loss import RPGPolicyLoss


class RPGActorTrainer(ActorPPOTrainer):
    """Differs from openrlhf/trainer/ray/ppo_actor.py ActorPPOTrainer in the loss and in the statistics it reports."""

    def __init__(self, strategy, *args, **kwargs):
        super().__init__(strategy, *args, **kwargs)
        self.actor_loss_fn = RPGPolicyLoss(strategy.args)

    def training_step(self, experience, kl_ctl, step, loss_batch_info=None):
        """Differs from upstream: the loss sees the reference's log-probs, which upstream keeps for its own KL loss."""
        self.actor_loss_fn.ref_log_probs = experience.base_action_log_probs
        return super().training_step(experience, kl_ctl, step, loss_batch_info)

    def ppo_train(self, kl_ctl: float) -> dict[str, float]:
        """Differs from upstream: the statistics of the whole rollout join its status."""
        status = super().ppo_train(kl_ctl)
        if status:
            status.update(self.actor_loss_fn.statistics.reduce(self.strategy))
        return status


class RPGPolicyActor(PolicyModelActor.__ray_actor_class__):
    """Differs from upstream's PolicyModelActor in the trainer it builds, when the objective is RPG's."""

    def init_model_from_pretrained(self, strategy, *args, **kwargs):
        """Differs from upstream: its name for the trainer is rebound, in this process, before it builds one."""
        if strategy.args.algo.objective == "rpg":
            ppo_actor.ActorPPOTrainer = RPGActorTrainer
        super().init_model_from_pretrained(strategy, *args, **kwargs)
