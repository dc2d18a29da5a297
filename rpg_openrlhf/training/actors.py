"""The policy's training step and the Ray actors that hold models: each override sets what differs, then delegates."""

import contextlib
import math
import random
import socket
from types import ModuleType

import torch
from openrlhf.trainer.ray import launcher, ppo_actor, ppo_critic
from openrlhf.trainer.ray.launcher import ReferenceModelActor
from openrlhf.trainer.ray.ppo_actor import PolicyModelActor
from openrlhf.trainer.ray.ppo_critic import CriticModelActor
from openrlhf.utils.deepspeed.deepspeed_utils import offload_deepspeed_states, reload_deepspeed_states
from transformers.modeling_layers import GradientCheckpointingLayer

from rpg_openrlhf import garbage
from rpg_openrlhf.deepspeed_states import clear_moments, where_possible
from rpg_openrlhf.errors import NotFinite
from rpg_openrlhf.reference.weights import ReferenceWeights
from rpg_openrlhf.runs.checkpointing import WholeCheckpoints
from rpg_openrlhf.runs.checkpoints import ACTOR, CRITIC
from rpg_openrlhf.training.chunked_head import actor_class
from rpg_openrlhf.training.column_actors import ColumnBuffer, ColumnForward
from rpg_openrlhf.training.measured_once import MeasuredOnce
from rpg_openrlhf.training.policy_loss import RPGPolicyLoss
from rpg_openrlhf.weight_sync.adapters import keep_packing
from rpg_openrlhf.weight_sync.policy import BucketedSync


class StepBoundaryTrainer(BucketedSync):
    """Differs from upstream's ActorPPOTrainer (trainer/ray/ppo_actor.py), beyond BucketedSync, in marking step ends.

    With dynamic batches upstream calls backward() several times before one step() under gradient_accumulation_steps=1.
    ZeRO-1 and -2 of DeepSpeed 0.19.6 then keep only the gradient of the last backward().
    """

    # The policy's actor sets both: the average of `--train.enable_ema`, and RPG's reference.
    average: ReferenceWeights | None = None
    reference: ReferenceWeights | None = None

    def training_step(self, experience, kl_ctl, step, loss_batch_info=None):
        """Differs from upstream: a micro-batch that does not end the step is no accumulation boundary.

        The average moves here, and so does the reference under `--ref.refresh ema`. Upstream's moving_average
        (utils/deepspeed/deepspeed.py) needs a second model. Under ZeRO 3 it writes into gathered weights, and
        DeepSpeed drops the new values because no rank is named as the writer.
        """
        steps = self.actor.model.global_steps
        if self.args.train.dynamic_batch_enable:
            ends_step = bool(self.replay_buffer.dynamic_optimizer_step[step])
            self.actor.model.set_gradient_accumulation_boundary(ends_step)
        status = super().training_step(experience, kl_ctl, step, loss_batch_info)
        if self.actor.model.global_steps > steps:
            if self.average:
                self.average.refresh(1 - self.args.train.ema_beta)
            if self.reference and self.args.ref.refresh == "ema":
                self.reference.refresh(self.args.ref.mix)
        scale = self._logged_scale(status, step, loss_batch_info)
        for name in status["metrics"].keys() & self._token_means():
            status["metrics"][name] = status["metrics"][name] * scale
        return status

    def _token_means(self) -> set[str]:
        """Names of the metrics that are shares of the step's token mean."""
        names = {"entropy_loss"}
        if self.args.algo.kl.use_loss:
            names.add("kl")
        if self.args.actor.loss_agg_mode == "token-mean":
            names.add("policy_loss")
        return names

    def _logged_scale(self, status: dict, step: int, loss_batch_info: dict | None) -> torch.Tensor | float:
        """Factor from a micro-batch's share of the step's token mean, which upstream logs, to its own token mean.

        ppo_train then weights by tokens, so the logged value is the mean over all tokens for any micro-batches.
        """
        if loss_batch_info is None:
            dp_size = self.strategy.ds_device_mesh["dp"].size()
            normalizer = self.replay_buffer.dynamic_batch_num_tokens[step] / dp_size
        else:
            normalizer = loss_batch_info["batch_num_tokens"] / loss_batch_info["dp_size"]
        return normalizer / max(status["num_action_tokens"], 1.0)


class WholeStepCriticTrainer(ppo_critic.CriticPPOTrainer):
    """Differs from upstream's CriticPPOTrainer (trainer/ray/ppo_critic.py) in marking where a step ends."""

    def training_step(self, experience, step=0, loss_batch_info=None):
        """Differs from upstream: a micro-batch that does not end the step is no accumulation boundary."""
        if self.args.train.dynamic_batch_enable:
            self.critic.set_gradient_accumulation_boundary(bool(self.replay_buffer.dynamic_optimizer_step[step]))
        return super().training_step(experience, step, loss_batch_info)


class OpenRLHFActorTrainer(MeasuredOnce, StepBoundaryTrainer):
    """Differs from upstream's ActorPPOTrainer in its base classes, and in a KL loss to the policy that sampled."""

    def training_step(self, experience, kl_ctl, step, loss_batch_info=None):
        """Differs from upstream: under `--ref.refresh rollout` the reference's log-probs are the old policy's."""
        if self.args.ref.refresh == "rollout":
            self.args.algo.kl.init_coef = self.args.ref.kl_to_old  # upstream's switch for its KL loss
            experience.base_action_log_probs = experience.action_log_probs
        return super().training_step(experience, kl_ctl, step, loss_batch_info)


class RPGActorTrainer(MeasuredOnce, StepBoundaryTrainer):
    """Differs from upstream's ActorPPOTrainer in its base classes, in the loss and in the statistics it reports."""

    def __init__(self, strategy, *args, **kwargs):
        super().__init__(strategy, *args, **kwargs)
        self.actor_loss_fn = RPGPolicyLoss(strategy.args)

    def training_step(self, experience, kl_ctl, step, loss_batch_info=None):
        """Differs from upstream: passes the reference's log-probs to the loss; upstream uses them in its KL loss."""
        self.actor_loss_fn.ref_log_probs = experience.base_action_log_probs
        return super().training_step(experience, kl_ctl, step, loss_batch_info)

    def ppo_train(self, kl_ctl: float) -> dict[str, float]:
        """Differs from upstream: adds the rollout's statistics and its number of optimizer steps to the status."""
        steps = self.actor.model.global_steps
        status = super().ppo_train(kl_ctl)
        if status:
            status.update(self.actor_loss_fn.statistics.reduce(self.strategy))
            status["policy/optimizer_steps"] = float(self.actor.model.global_steps - steps)
        return status


def keep_activations(model: torch.nn.Module, recomputed: int) -> None:
    """Make the layers after the first `recomputed` keep their activations, in a model with gradient checkpointing."""
    layers = [layer for layer in model.modules() if isinstance(layer, GradientCheckpointingLayer)]
    for layer in layers[recomputed:]:
        layer.gradient_checkpointing = False


class StablePort:
    """Differs from upstream's BaseDistributedActor in the range of the rendezvous port.

    Upstream takes an ephemeral port and binds it half a minute later, when another connection may have it.
    """

    @staticmethod
    def _get_free_port() -> int:
        """Differs from upstream: a free port below Linux's ephemeral range."""
        for port in random.SystemRandom().sample(range(20_000, 32_768), 100):
            with socket.socket() as probe, contextlib.suppress(OSError):
                probe.bind(("", port))  # on every interface: other nodes connect
                return port
        raise RuntimeError("no free port between 20000 and 32767")


class RPGReferenceActor(StablePort, ColumnForward, ReferenceModelActor.__ray_actor_class__):
    """Differs from upstream's ReferenceModelActor in its port, its model's class and the format of its inputs."""

    def init_model_from_pretrained(self, strategy, *args, **kwargs):
        """Differs from upstream: rebinds its name of the model's class, in this process, before a model is built."""
        launcher.Actor = actor_class(strategy.args)
        super().init_model_from_pretrained(strategy, *args, **kwargs)
        garbage.as_usual()


def bind_offloading(module: ModuleType) -> None:
    """Rebind upstream's offloading (`--ds.enable_sleep`), as DeepSpeed's ZeRO 3 asserts FusedAdam.

    The states of Schedule-Free, Muon and torch's AdamW then stay on the GPU.
    """
    module.offload_deepspeed_states = where_possible(offload_deepspeed_states)
    module.reload_deepspeed_states = where_possible(reload_deepspeed_states)


class RPGCriticActor(StablePort, WholeCheckpoints, CriticModelActor.__ray_actor_class__):
    """Differs from upstream's CriticModelActor in its port, its checkpoints and in refusing non-finite metrics."""

    part = CRITIC

    def init_model_from_pretrained(self, *args, **kwargs):
        """Differs from upstream: rebinds its names of the trainer and of offloading, in this process."""
        ppo_critic.CriticPPOTrainer = WholeStepCriticTrainer
        bind_offloading(ppo_critic)
        super().init_model_from_pretrained(*args, **kwargs)
        garbage.as_usual()

    def fit(self):
        """Differs from upstream: a loss or gradient norm that is not finite ends the run."""
        status = super().fit()
        for name, value in status.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise NotFinite(f"{name} of the critic is {value}; lower --critic.adam.lr")
        return status


class RPGPolicyActor(StablePort, WholeCheckpoints, ColumnForward, PolicyModelActor.__ray_actor_class__):
    """Differs from upstream's PolicyModelActor in the model and trainer it builds and in holding RPG's reference."""

    part = ACTOR
    reference: ReferenceWeights | None = None  # where `--ref.refresh` asks for one

    def init_model_from_pretrained(self, strategy, *args, **kwargs):
        """Differs from upstream: rebinds its names of model, trainer and buffer, in this process."""
        ppo_actor.Actor = actor_class(strategy.args)
        rpg = strategy.args.algo.objective == "rpg"
        ppo_actor.ActorPPOTrainer = RPGActorTrainer if rpg else OpenRLHFActorTrainer
        ppo_actor.NaiveReplayBuffer = ColumnBuffer
        bind_offloading(ppo_actor)
        # With enable_ema upstream would build a second model for the average; ours is held in parts.
        averaged, strategy.args.train.enable_ema = strategy.args.train.enable_ema, False
        super().init_model_from_pretrained(strategy, *args, **kwargs)
        garbage.as_usual()
        if strategy.args.ds.load_in_4bit:
            keep_packing(self.actor.model)
        if averaged:
            self._hold_average(strategy)
        if strategy.args.actor.gradient_checkpointing_layers:
            keep_activations(self.actor.model, strategy.args.actor.gradient_checkpointing_layers)
        if rpg and strategy.args.ref.refresh != "rollout":
            self._hold_reference(strategy)

    def _hold_average(self, strategy) -> None:
        """Hold the running average of the weights, which is saved as the model."""
        average = ReferenceWeights(self.actor.model, offload=True, mixed=True, kind="average")
        if self.checkpoint_states:
            average.load(strategy.resumed(ACTOR))
        strategy.extra_writers.append(average.save)
        strategy.saved_weights = average.in_place
        self.trainer.average = average

    def _hold_reference(self, strategy) -> None:
        args = strategy.args
        mixed = args.ref.mix not in (None, 1)
        self.reference = ReferenceWeights(self.actor.model, offload=args.ref.offload, mixed=mixed)
        # After a resume the policy is not the initial one, so the initial model is loaded again.
        start = args.ref.model_name_or_path or (self.checkpoint_states and args.actor.model_name_or_path)
        if self.checkpoint_states and self.reference.is_in(strategy.resumed(ACTOR)):
            self.reference.load(strategy.resumed(ACTOR))
        elif start and args.ds.lora.rank:
            self.reference.clear()
        elif start:  # a new run with a reference model, or a checkpoint that holds no reference
            self.reference.take(start, args.trust_remote_code)
        strategy.extra_writers.append(self.reference.save)
        self.trainer.reference = self.reference

    def execute_batch(self, method_name, all_data, start_idx, end_idx):
        """Differs from upstream: `reference_forward` is the policy's forward with the reference's weights in place."""
        if method_name != "reference_forward":
            return super().execute_batch(method_name, all_data, start_idx, end_idx)
        with self.reference.in_place():
            return super().execute_batch("forward", all_data, start_idx, end_idx)

    def sync_nbytes(self) -> int:
        """Bytes of weights that the last sync sent to each engine."""
        return self.trainer.sender.nbytes()

    def refresh_reference(self, mix: float, reset_optimizer: bool) -> None:
        """Move this rank's part of the reference to the policy, or by `mix` of the way."""
        self.reference.refresh(mix)
        if reset_optimizer:
            clear_moments(self.actor.model)
