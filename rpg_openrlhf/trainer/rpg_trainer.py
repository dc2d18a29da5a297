"""The controller: upstream's PPOTrainer with RPG's experience maker, a reference that moves, and a state of its own.

It reports each step, and each phase as it begins.
"""

import time
from pathlib import Path

import ray
import torch
from openrlhf.trainer import ppo_trainer
from openrlhf.trainer.ppo_trainer import PPOTrainer
from openrlhf.trainer.ppo_utils.kl_controller import FixedKLController

from rpg_openrlhf.reference import RefreshSchedule
from rpg_openrlhf.trainer.experience_maker import PolicyAsReference, RPGExperienceMaker
from rpg_openrlhf.trainer.micro_batches import ColumnMaker, balance_experiences
from rpg_openrlhf.trainer.rollouts import RPGSamplesGenerator


class RPGTrainer(PPOTrainer.__ray_actor_class__):
    """Differs from upstream's PPOTrainer in the experience maker, in moving the reference and in reporting steps."""

    def __init__(self, pretrain, strategy, *args, **kwargs):
        torch.manual_seed(strategy.args.train.seed)
        super().__init__(pretrain, strategy, *args, **kwargs)
        self.samples_generator = RPGSamplesGenerator(
            strategy, self.prompts_dataloader, self.eval_dataloader, self.tokenizer, self.vllm_engines
        )
        self.prompts_dataloader = self.samples_generator.prompts_dataloader
        self.schedule: RefreshSchedule | None = None
        self._moved: dict | None = None  # what is to be reported of this step's refresh
        ppo_trainer.balance_experiences = balance_experiences  # train_step's, in this process
        maker, reference = ColumnMaker, self.reference_model_group
        if self.args.algo.objective == "rpg":
            # The KL is in the loss. A zero coefficient keeps it out of the reward, and out of the loss a second time:
            # upstream is told of a KL loss (use_loss) only to keep the reference's log-probs.
            self.kl_ctl = FixedKLController(0.0)
            maker, reference = RPGExperienceMaker, self._moving_reference()
        self.experience_maker = maker(
            self.actor_model_group,
            self.critic_model_group,
            self.reward_model_group,
            reference,
            self.kl_ctl,
            self.strategy,
            self.tokenizer,
        )

    def _moving_reference(self) -> PolicyAsReference | None:
        ref = self.args.ref
        if ref.refresh == "rollout":
            return None
        self.schedule = RefreshSchedule(ref.refresh, ref.interval, ref.kl_target, ref.kl_decay, ref.min_interval)
        return PolicyAsReference(self.actor_model_group)

    def train_step(self, rollout_samples, global_step):
        """Differs from upstream: the reference moves after it, when the schedule says so.

        Under --train.full_determinism_enable samples are in order of prompt, not time.
        """
        if self.args.train.full_determinism_enable:
            rollout_samples = in_order(rollout_samples, self.args.rollout.n_samples_per_prompt)
        self._phase("experience")
        status, global_step = super().train_step(rollout_samples, global_step)
        if self.schedule and "policy/kl_ref_k3" in status:  # without it no step was taken
            status |= self._move_reference(status, global_step)
        return status, global_step

    def _move_reference(self, status: dict, global_step: int) -> dict[str, float]:
        """Ask the schedule, have the policy's actors do it -> what is logged of it."""
        kl, ref = status["policy/kl_ref_k3"], self.args.ref
        decision = self.schedule.update(kl, int(status["policy/optimizer_steps"]))
        logged = {
            "ref/refresh": float(decision.refresh),
            "ref/kl_average": decision.kl_average,
            "ref/steps_since_refresh": float(decision.steps_since_refresh),
            "ref/kl_start": kl if self.experience_maker.kl_start is None else self.experience_maker.kl_start,
        }
        if not decision.refresh:
            return logged
        mix = 1.0 if ref.mix is None else ref.mix
        self._moved = {"step": global_step, "reason": decision.reason, "kl_before": kl}
        logged["ref/kl_before"] = kl
        if mix == 1:
            # Both have the same weights. After a mix it is measured, on the next rollout, before its first step.
            self._moved["kl_after"] = logged["ref/kl_after"] = 0.0
        if decision.reason != "ema":  # which moves at every optimizer step, in the policy's actors
            start = time.time()
            ray.get(self.actor_model_group.async_run_method("refresh_reference", mix, ref.reset_optimizer))
            logged["timing/refresh"] = time.time() - start
        return logged

    def ppo_train(self, global_steps):
        """Differs from upstream: the phase is reported."""
        self._phase("train")
        return super().ppo_train(global_steps)

    def broadcast_to_vllm(self):
        """Differs from upstream: the phase is reported, and the next one, in which samples are drawn."""
        self._phase("sync")
        super().broadcast_to_vllm()
        self._phase("generate")

    def fit(self, global_step=0):
        """Differs from upstream: the phases before the first rollout and after the last are reported."""
        self._phase("generate")
        super().fit(global_step)
        self._phase("save")

    def init_checkpoint_states(self) -> dict:
        """Differs from upstream: our own state goes on too, and the place in the data without the loader's help."""
        states = super().init_checkpoint_states()
        if "trainer" in states:
            self.load_state_dict(states["trainer"])
            if evaluation_is_owed(self.args, states["global_step"]) and self.eval_dataloader:
                self.samples_generator.before_the_next = lambda: self._evaluate_owed(states)
        return states | {"data_loader_state_dict": {}}

    def _evaluate_owed(self, states: dict) -> None:
        """What follows the step of the checkpoint, in which nothing of it is: upstream saves first."""
        step, chosen = states["global_step"], self.args.eval
        sampling = {"temperature": chosen.temperature, "n_samples_per_prompt": chosen.n_samples_per_prompt}
        logs = self.evaluate(step, **{**self.generate_kwargs, **sampling})
        # What is loaded holds DeepSpeed's own entries too, which it refuses to be given.
        names = ("episode", "global_step", "total_consumed_prompts", "data_loader_state_dict", "trainer")
        self.save_best_checkpoint(logs, step, {name: states[name] for name in names})

    def state_dict(self) -> dict:
        """What the next step depends on besides the models, and no upstream name in the checkpoint holds."""
        return {
            "samples": self.samples_generator.state_dict(),
            "schedule": self.schedule.state_dict() if self.schedule else None,
            "kl_coefficient": self.kl_ctl.value,
        }

    def load_state_dict(self, state: dict) -> None:
        """Go on from `state_dict()`, also under another rule for the reference; a KL controller, where it adapts."""
        self.samples_generator.load_state_dict(state["samples"])
        if self.schedule and state["schedule"]:
            self.schedule.load_state_dict(state["schedule"])
        if not isinstance(self.kl_ctl, FixedKLController):
            self.kl_ctl.value = state["kl_coefficient"]

    def get_max_steps(self) -> int:
        """Differs from upstream: the driver learns how many rollouts to expect."""
        rollouts = len(self.prompts_dataloader) * self.args.train.num_episodes // self.args.rollout.batch_size
        self._report("start", 0, {"rollouts": rollouts})
        return super().get_max_steps()

    def save_logs_and_checkpoints(self, global_step, logs_dict=None, client_states=None):
        """Differs from upstream: the step is reported to the driver too, and a checkpoint holds our own state."""
        self._report("train", global_step, logs_dict or {})
        if self._moved:
            self.strategy.progress.put({"kind": "refresh", **self._moved})
            self._moved = None
        client_states["trainer"] = self.state_dict()  # the best checkpoint, after an evaluation, is given them too
        self._phase("save")
        super().save_logs_and_checkpoints(global_step, logs_dict, client_states)
        self._phase("generate")

    def evaluate(self, global_step, **generate_kwargs):
        """Differs from upstream: the result is reported to the driver too."""
        self._phase("evaluate")
        logs = super().evaluate(global_step, **generate_kwargs)
        self._report("eval", global_step, logs)
        self._phase("generate")
        return logs

    def _phase(self, name: str) -> None:
        self.strategy.progress.put({"kind": "phase", "name": name})

    def _report(self, kind: str, step: int, values: dict) -> None:
        numbers = {key: float(value) for key, value in values.items() if isinstance(value, int | float)}
        self.strategy.progress.put({"kind": kind, "step": step, **numbers})


def evaluation_is_owed(args, step: int) -> bool:
    """Whether a run that goes on from this step's checkpoint is to evaluate first; the best one was written after."""
    return step % args.eval.steps == 0 and not Path(args.ckpt.resume_from).name.startswith("best")


def in_order(samples: list, group: int) -> list:
    """A rollout's samples, `group` to a prompt, in an order that does not tell which of them was finished first."""
    groups = [samples[start : start + group] for start in range(0, len(samples), group)]
    groups.sort(key=lambda samples: (samples[0].prompts[0], [sample.sequences.tolist() for sample in samples]))
    return [sample for group in groups for sample in group]
