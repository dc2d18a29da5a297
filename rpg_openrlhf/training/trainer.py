"""The controller: upstream's PPOTrainer with RPG's experience maker, a moving reference and more saved state.

It reports each step, and each phase as it begins.
"""

import math
import time
from pathlib import Path

import ray
import torch
from openrlhf.trainer import ppo_trainer
from openrlhf.trainer.ppo_trainer import PPOTrainer
from openrlhf.trainer.ppo_utils.kl_controller import FixedKLController

from rpg_openrlhf import garbage
from rpg_openrlhf.errors import NotFinite
from rpg_openrlhf.reference.schedule import RefreshSchedule
from rpg_openrlhf.runs import evaluation, loggers
from rpg_openrlhf.sampling.asynchronous import AsynchronousGenerator
from rpg_openrlhf.sampling.generator import RPGSamplesGenerator
from rpg_openrlhf.sampling.reward_check import check_logs
from rpg_openrlhf.training import first_sync
from rpg_openrlhf.training.data_sets import blending_datasets
from rpg_openrlhf.training.experience import PolicyAsReference, RPGExperienceMaker
from rpg_openrlhf.training.micro_batches import ColumnMaker, balance_experiences


class RPGTrainer(PPOTrainer.__ray_actor_class__):
    """Differs from upstream's PPOTrainer in the experience maker, in moving the reference and in what it logs."""

    reward_source = "the reward"  # its name in errors; install.py sets it on a subclass

    def __init__(self, pretrain, strategy, *args, **kwargs):
        torch.manual_seed(strategy.args.train.seed)
        if not (strategy.args.use_ms or strategy.args.data.max_images_per_prompt > 0):
            ppo_trainer.blending_datasets = blending_datasets  # for prepare_datasets, in this process
        asynchronous, rpg = strategy.args.train.asynchronous, strategy.args.algo.objective == "rpg"
        ppo_trainer.SamplesGenerator = AsynchronousGenerator if asynchronous else RPGSamplesGenerator
        ppo_trainer.RemoteExperienceMaker = RPGExperienceMaker if rpg else ColumnMaker
        ppo_trainer.WandbLogger, ppo_trainer.TensorboardLogger = loggers.WandbLog, loggers.TensorboardLog
        ppo_trainer.balance_experiences = balance_experiences  # called by train_step; the others by super().__init__
        super().__init__(pretrain, strategy, *args, **kwargs)
        garbage.as_usual()
        self.prompts_dataloader = self.samples_generator.prompts_dataloader
        self.samples_generator.reward_source = self.reward_source
        self.schedule: RefreshSchedule | None = None
        self.rollouts_trained = 0  # including those before a resume
        self._moved: dict | None = None  # report of this step's refresh, not sent yet
        ref = self.args.ref
        if rpg and ref.refresh != "rollout":  # the KL is in the loss; upstream's coefficient (kl_ctl) is 0 then
            self.schedule = RefreshSchedule(ref.refresh, ref.interval, ref.kl_target, ref.kl_decay, ref.min_interval)
            self.experience_maker.initial_model_group = PolicyAsReference(self.actor_model_group)
        elif not rpg and ref.refresh == "rollout":
            self.kl_ctl = self.experience_maker.kl_ctl = FixedKLController(ref.kl_to_old)

    def train_step(self, rollout_samples, global_step):
        """Differs from upstream: the reference moves after the step if the schedule says so.

        Under --train.full_determinism_enable samples are sorted by prompt, not by time of arrival.
        """
        if self.args.train.full_determinism_enable:
            rollout_samples = in_order(rollout_samples, self.args.rollout.n_samples_per_prompt)
        check_logs(rollout_samples, self.reward_source)
        self._phase("experience")
        status, global_step = super().train_step(rollout_samples, global_step)
        self._end_after(global_step)
        status |= self.samples_generator.rollout_metrics()
        status["sync/mib"] = ray.get(self.actor_model_group._actor_handlers[0].sync_nbytes.remote()) / 2**20
        if self.schedule and "policy/kl_ref_k3" in status:  # absent if no step was taken
            status |= self._move_reference(status, global_step)
        return status, global_step

    def _compute_rollout_stats(self, experiences):
        """Differs from upstream: a reward that is not finite ends the run, whatever its source."""
        stats = super()._compute_rollout_stats(experiences)
        if not math.isfinite(stats["rollout/reward_mean"]):
            raise NotFinite(f"{self.reward_source}: the mean reward of a rollout is {stats['rollout/reward_mean']}")
        return stats

    def _end_after(self, global_step: int) -> None:
        self.rollouts_trained = global_step
        limit = self.args.train.max_rollouts
        self.samples_generator.ended = limit is not None and global_step >= limit
        self.samples_generator.rollouts_left = None if limit is None else max(0, limit - global_step)

    def _move_reference(self, status: dict, global_step: int) -> dict[str, float]:
        """Ask the schedule, make the policy's actors move the reference, and return the metrics to log."""
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
            # Policy and reference are equal now. After a mix the next rollout measures the KL before its first step.
            self._moved["kl_after"] = logged["ref/kl_after"] = 0.0
        if decision.reason != "ema":  # ema moves at every optimizer step, in the policy's actors
            start = time.time()
            ray.get(self.actor_model_group.async_run_method("refresh_reference", mix, ref.reset_optimizer))
            logged["timing/refresh"] = time.time() - start
        return logged

    def ppo_train(self, global_steps):
        """Differs from upstream: reports the phase."""
        self._phase("train")
        return super().ppo_train(global_steps)

    def broadcast_to_vllm(self):
        """Differs from upstream: reports the phase, and then the phase of sampling."""
        with self.samples_generator.sending():  # an asynchronous run waits for the rollout that is being sampled
            self._phase("sync")
            super().broadcast_to_vllm()
        self._phase("generate")

    def fit(self, global_step=0):
        """Differs from upstream: reports phases, and fails before saving if the run trained on nothing.

        A new run first checks that a sync of unchanged weights changes no answer.
        """
        if self.vllm_engines and not self.args.ckpt.load_enable:
            first_sync.check(self)
        self._phase("generate")
        super().fit(global_step)
        if not self.rollouts_trained:
            raise RuntimeError(self.samples_generator.nothing_trained())
        self._phase("save")

    def init_checkpoint_states(self) -> dict:
        """Differs from upstream: also restores our own state, which holds the position in the data."""
        states = super().init_checkpoint_states()
        self._end_after(states["global_step"])
        if "trainer" in states:
            self.load_state_dict(states["trainer"])
            if must_evaluate_first(self.args, states["global_step"]) and self.eval_dataloader:
                self.samples_generator.before_the_next = lambda: self._evaluate_first(states)
        return states | {"data_loader_state_dict": {}}

    def _evaluate_first(self, states: dict) -> None:
        """Evaluate the checkpoint's step first. Upstream saves before it evaluates, so the checkpoint lacks this."""
        step, chosen = states["global_step"], self.args.eval
        sampling = {"temperature": chosen.temperature, "n_samples_per_prompt": chosen.n_samples_per_prompt}
        logs = self.evaluate(step, **{**self.generate_kwargs, **sampling})
        # Loaded states also hold DeepSpeed's own entries, which it refuses when saving.
        names = ("episode", "global_step", "total_consumed_prompts", "data_loader_state_dict", "trainer")
        self.save_best_checkpoint(logs, step, {name: states[name] for name in names})

    def state_dict(self) -> dict:
        """State that the next step needs in addition to the models and upstream's checkpoint."""
        return {
            "samples": self.samples_generator.state_dict(),
            "schedule": self.schedule.state_dict() if self.schedule else None,
            "kl_coefficient": self.kl_ctl.value,
        }

    def load_state_dict(self, state: dict) -> None:
        """Restore `state_dict()`, also under another rule for the reference; the KL coefficient only if it adapts."""
        self.samples_generator.load_state_dict(state["samples"])
        if self.schedule and state["schedule"]:
            self.schedule.load_state_dict(state["schedule"])
        if not isinstance(self.kl_ctl, FixedKLController):
            self.kl_ctl.value = state["kl_coefficient"]

    def restore_best_checkpoint_state(self, checkpoint_states) -> None:
        """Differs from upstream: the best score so far counts only if its metric is the one chosen now.

        Upstream continues with the metric of the checkpoint and ignores the flag.
        """
        if (checkpoint_states or {}).get("best_eval_metric_key") == self.best_eval_metric_key:
            super().restore_best_checkpoint_state(checkpoint_states)

    def get_max_steps(self) -> int:
        """Differs from upstream: reports the number of rollouts to the driver, and ends the schedule with them.

        Upstream counts by episode and leaves out prompts that an episode carries over to the next.
        """
        args = self.args
        rollouts = len(self.prompts_dataloader) * args.train.num_episodes // args.rollout.batch_size
        limit = args.train.max_rollouts or rollouts
        self._report("start", 0, {"rollouts": min(rollouts, limit)})
        samples = args.rollout.batch_size * args.rollout.n_samples_per_prompt
        return min(rollouts, limit) * (samples // args.train.batch_size) * args.train.max_epochs

    def save_logs_and_checkpoints(self, global_step, logs_dict=None, client_states=None):
        """Differs from upstream: also reports the step to the driver, and a checkpoint holds our own state."""
        logs_dict = with_rate(logs_dict)
        self._report("train", global_step, logs_dict)
        if self._moved:
            self.strategy.progress.put({"kind": "refresh", **self._moved})
            self._moved = None
        client_states["trainer"] = self.state_dict()  # the best checkpoint gets them too, after an evaluation
        self._phase("save")
        super().save_logs_and_checkpoints(global_step, logs_dict, client_states)
        self._phase("generate")

    def evaluate(self, global_step, **generate_kwargs):
        """Differs from upstream: the metrics are those of evaluation.py, and the driver gets them too."""
        self._phase("evaluate")
        start = time.time()
        samples = self.samples_generator.generate_eval_samples(**generate_kwargs)
        logs = evaluation.metrics(self.eval_dataloader, samples, generate_kwargs["n_samples_per_prompt"])
        logs["timing/evaluate"] = time.time() - start
        for log in filter(None, (self.wandb_logger, self.tensorboard_logger)):
            log.log_eval(global_step, logs)
        self._report("eval", global_step, logs)
        self._phase("generate")
        return logs

    def _phase(self, name: str) -> None:
        self.strategy.progress.put({"kind": "phase", "name": name})

    def _report(self, kind: str, step: int, values: dict) -> None:
        self.strategy.progress.put({"kind": kind, "step": step, **loggers.numbers(values)})


def with_rate(logs: dict) -> dict:
    """Add the step's generated tokens per second to its logs."""
    seconds = logs.get("timing/step_total")
    tokens = logs["rollout/num_samples"] * logs["rollout/response_length_mean"]
    return logs | {"tokens_per_second": tokens / seconds if seconds else 0.0}


def must_evaluate_first(args, step: int) -> bool:
    """True if a run that resumes from this step must evaluate first. A best checkpoint is already evaluated."""
    return step % args.eval.steps == 0 and not Path(args.ckpt.resume_from).name.startswith("best")


def in_order(samples: list, group: int) -> list:
    """Sort a rollout's samples, `group` per prompt, so that their order does not depend on which finished first."""
    groups = [samples[start : start + group] for start in range(0, len(samples), group)]
    groups.sort(key=lambda samples: (samples[0].prompts[0], [sample.sequences.tolist() for sample in samples]))
    return [sample for group in groups for sample in group]
