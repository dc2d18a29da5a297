"""The launcher with a policy that notes, after every weight sync, what the first engine holds.

Writes <logger.run_dir>/syncs.pt, a list of {"engine": {name: weight}}, with Schedule-Free's own "x" and "y".
"""

import sys
from pathlib import Path

from rpg_openrlhf import cpu_platform

cpu_platform.install()  # before openrlhf is imported, which the launcher does later

import pytest
import ray
import torch

from rpg_openrlhf.launch import install
from rpg_openrlhf.sampling.engine_actor import RPGRolloutActor
from rpg_openrlhf.training import schedule_free
from rpg_openrlhf.training.actors import RPGPolicyActor

NAMES = ("model.layers.0.self_attn.o_proj.weight", "model.layers.1.mlp.down_proj.weight")  # as vLLM has them


class ReadableEngine(RPGRolloutActor):
    async def get_weight(self, name):
        (weight,) = await self.llm.collective_rpc(
            lambda worker: dict(worker.model_runner.model.named_parameters())[name].detach().clone()
        )
        return weight


class Notes:
    """Keeps what was seen after each sync of a training step."""

    syncs = ()

    def note(self, **seen):
        if torch.distributed.get_rank() == 0:
            engine = self.vllm_engines[0]
            seen["engine"] = {name: ray.get(engine.get_weight.remote(name)) for name in NAMES}
            self.syncs = (*self.syncs, seen)
            torch.save(list(self.syncs), Path(self.strategy.args.logger.run_dir, "syncs.pt"))


class ObservedPolicy(Notes, RPGPolicyActor):
    def broadcast_to_vllm(self):
        super().broadcast_to_vllm()
        if self.actor.model.global_steps:  # else the sync of unchanged weights before the first rollout
            self.note()


class ObservedAverage(Notes, schedule_free.ScheduleFreePolicyActor):
    def broadcast_to_vllm(self):
        super().broadcast_to_vllm()
        if not self.actor.model.global_steps:
            return
        average = self.weights()
        schedule_free.to_training(self.actor.model)
        for forbidden in (super().broadcast_to_vllm, self.save_model, self.forward):
            with pytest.raises(AssertionError, match="switch to x first"):
                forbidden()
        trained = self.weights()
        schedule_free.to_averaged(self.actor.model)
        self.note(x=average, y=trained)

    def weights(self):
        weights = dict(self.actor.model.module.named_parameters())
        return {name: weights[name].detach().clone() for name in NAMES}


def install_observed(args, reports, original=install.install):
    averages = args.actor.optim == "schedulefree"
    install.policy_actor = lambda args: ObservedAverage if averages else ObservedPolicy
    install.RPGRolloutActor = ReadableEngine
    original(args, reports)


if __name__ == "__main__":
    from rpg_openrlhf.commands.train_rpg import main
    from rpg_openrlhf.launch.attempt import run

    install.install = install_observed
    sys.exit(main(launch=run))  # in this process
