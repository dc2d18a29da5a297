"""The launcher with an explicit reference model that takes the policy's weights before every rollout is trained on.

Run by test_equal_runs.py with `--ref.refresh never`: it must train exactly as no reference model at all.
"""

import sys

from rpg_openrlhf.trainer import cpu_platform

cpu_platform.install()  # before openrlhf is imported, which the launcher does later

import ray
from openrlhf.cli import train_ppo_ray
from openrlhf.trainer import ppo_trainer
from openrlhf.trainer.ray.launcher import ReferenceModelActor

from rpg_openrlhf.trainer import install
from rpg_openrlhf.trainer.actor import RPGPolicyActor
from rpg_openrlhf.trainer.rpg_trainer import RPGTrainer


class OpenPolicy(RPGPolicyActor):
    def weights(self):
        return {name: weight.detach().clone() for name, weight in self.actor.model.module.named_parameters()}


class MovableReference(ReferenceModelActor.__ray_actor_class__):
    def load(self, weights):
        for name, weight in self.model.model.module.named_parameters():
            weight.data.copy_(weights[name])


class RefreshingTrainer(RPGTrainer):
    def train_step(self, rollout_samples, global_step):
        weights = ray.get(self.actor_model_group.async_run_method("weights"))[0]
        ray.get(self.reference_model_group.async_run_method("load", weights))
        return super().train_step(rollout_samples, global_step)


def install_and_refresh(args, reports, original=install.install):
    original(args, reports)
    train_ppo_ray.PolicyModelActor = ray.remote(num_gpus=1)(OpenPolicy)
    train_ppo_ray.ReferenceModelActor = ray.remote(num_gpus=1)(MovableReference)
    ppo_trainer.PPOTrainer = ray.remote(RefreshingTrainer)


if __name__ == "__main__":
    from rpg_openrlhf.cli.train_rpg import main

    install.install = install_and_refresh
    sys.exit(main())
