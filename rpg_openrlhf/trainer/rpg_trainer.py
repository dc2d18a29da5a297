"""The controller: upstream's PPOTrainer with RPG's experience maker, and a record of every step for the driver."""

import torch
from openrlhf.trainer.ppo_trainer import PPOTrainer
from openrlhf.trainer.ppo_utils.kl_controller import FixedKLController

from rpg_openrlhf.trainer.experience_maker import RPGExperienceMaker


class RPGTrainer(PPOTrainer.__ray_actor_class__):
    """Differs from upstream's PPOTrainer in the experience maker and in reporting steps; the loop is upstream's."""

    def __init__(self, pretrain, strategy, *args, **kwargs):
        torch.manual_seed(strategy.args.train.seed)  # upstream shuffles the prompts by whatever state the process has
        super().__init__(pretrain, strategy, *args, **kwargs)
        if self.args.algo.objective != "rpg":
            return
        # The KL is in the loss. A zero coefficient keeps it out of the reward, and out of the loss a second time:
        # upstream is told of a KL loss (init_coef, use_loss) only to load a reference and keep its log-probs.
        self.kl_ctl = FixedKLController(0.0)
        self.experience_maker = RPGExperienceMaker(
            self.actor_model_group,
            self.critic_model_group,
            self.reward_model_group,
            self.reference_model_group,
            self.kl_ctl,
            self.strategy,
            self.tokenizer,
        )

    def train_step(self, rollout_samples, global_step):
        """Differs from upstream: under --train.full_determinism_enable samples are in order of prompt, not time."""
        if self.args.train.full_determinism_enable:
            rollout_samples = sorted(
                rollout_samples, key=lambda sample: sample.prompts[0]
            )  # stable: groups stay whole
        return super().train_step(rollout_samples, global_step)

    def get_max_steps(self) -> int:
        """Differs from upstream: the driver learns how many rollouts to expect."""
        rollouts = len(self.prompts_dataloader) * self.args.train.num_episodes // self.args.rollout.batch_size
        self._report("start", 0, {"rollouts": rollouts})
        return super().get_max_steps()

    def save_logs_and_checkpoints(self, global_step, logs_dict=None, client_states=None):
        """Differs from upstream: the step is reported to the driver too."""
        self._report("train", global_step, logs_dict or {})
        super().save_logs_and_checkpoints(global_step, logs_dict, client_states)

    def evaluate(self, global_step, **generate_kwargs):
        """Differs from upstream: the result is reported to the driver too."""
        logs = super().evaluate(global_step, **generate_kwargs)
        self._report("eval", global_step, logs)
        return logs

    def _report(self, kind: str, step: int, values: dict) -> None:
        numbers = {key: float(value) for key, value in values.items() if isinstance(value, int | float)}
        self.strategy.progress.put({"kind": kind, "step": step, **numbers})
