"""Every upstream name that we rebind on the driver, in one function, with one reason each.

Ray ships a decorated class by value, so a name must be rebound before the first `.remote()`. Names in other processes
are rebound in trainer.py, actors.py and schedule_free.py (training/).
"""

import inspect
from types import SimpleNamespace

import ray
from openrlhf.cli import train_ppo_ray
from openrlhf.trainer import ppo_trainer
from openrlhf.trainer.ray import vllm_engine
from openrlhf.utils import deepspeed as deepspeed_module

from rpg_openrlhf.runs.checkpointing import CheckpointingStrategy
from rpg_openrlhf.sampling.engine_actor import RPGRolloutActor
from rpg_openrlhf.training.actors import RPGCriticActor, RPGPolicyActor, RPGReferenceActor
from rpg_openrlhf.training.trainer import RPGTrainer


def install(args: SimpleNamespace, progress) -> None:
    """Rebind upstream's names so that `train_ppo_ray.train(args)` trains with our classes.

    progress: a ray.util.queue.Queue to which RPGTrainer sends its reports.
    """
    # train() uses the models' classes from its module, and imports the trainer's class locally.
    train_ppo_ray.PolicyModelActor = ray.remote(num_gpus=1)(policy_actor(args))
    train_ppo_ray.ReferenceModelActor = ray.remote(num_gpus=1)(RPGReferenceActor)
    train_ppo_ray.CriticModelActor = ray.remote(num_gpus=1)(RPGCriticActor)
    source = {"reward_source": reward_source(args)}
    ppo_trainer.PPOTrainer = ray.remote(type("RPGTrainer", (RPGTrainer,), source))
    # create_vllm_engines() hard-codes these engine arguments.
    overrides = engine_overrides(args)
    settings = {
        "engine_overrides": overrides,
        "sampling_seed": args.train.seed if args.train.full_determinism_enable else None,
        "resumed_step": args.ckpt.resumed_step,
        **source,
    }
    rollout_actor = type("RPGRolloutActor", (RPGRolloutActor,), settings)
    vllm_engine.RolloutRayActor = ray.remote(rollout_actor)
    # train() builds the strategy, which every actor receives; get_strategy imports its class locally.
    deepspeed_module.DeepspeedStrategy = CheckpointingStrategy
    get_strategy = inspect.unwrap(train_ppo_ray.get_strategy)

    def get_strategy_with_progress(args):
        strategy = get_strategy(args)
        strategy.progress = progress
        return strategy

    get_strategy_with_progress.__wrapped__ = get_strategy  # installing twice wraps once
    train_ppo_ray.get_strategy = get_strategy_with_progress


def reward_source(args: SimpleNamespace) -> str:
    """Flag and value that name the source of rewards in error messages."""
    if args.train.agent_func_path:
        return f"--train.agent_func_path {args.train.agent_func_path}"
    if not args.reward.remote_url:
        return f"--reward.model_name_or_path {args.reward.model_name_or_path}"
    url = ",".join(args.reward.remote_url)
    return f"--reward.remote_url {url}" + (" (reward_func)" if url.endswith(".py") else "")


def policy_actor(args: SimpleNamespace) -> type:
    """Class of the policy's actor. Only runs with Schedule-Free AdamW import its package, which is optional."""
    if args.actor.optim != "schedulefree":
        return RPGPolicyActor
    from rpg_openrlhf.training.schedule_free import ScheduleFreePolicyActor

    return ScheduleFreePolicyActor


# A decoding step reads all weights once for the whole batch, so a large batch is efficient. vLLM 0.29 gives the engine
# that upstream builds only 128: its larger defaults are for servers and its LLM class (test_upstream_shape.py).
MAX_NUM_SEQS = 512


def engine_overrides(args: SimpleNamespace) -> dict:
    """Engine arguments that replace those that upstream hard-codes."""
    overrides: dict = {
        "trust_remote_code": args.trust_remote_code,  # upstream: always
        "max_num_seqs": MAX_NUM_SEQS,
        "worker_extension_cls": "rpg_openrlhf.weight_sync.receiver.WeightReceiver",
    }
    if args.algo.objective == "rpg" and args.rpg.old_policy == "rollout":
        # Log-probs of the sampling distribution: after temperature and top-p.
        overrides |= {"logprobs_mode": "processed_logprobs", "max_logprobs": 1}
    if args.platform == "cpu" and args.ds.param_dtype == "fp32":
        overrides["dtype"] = "float32"
    return overrides
