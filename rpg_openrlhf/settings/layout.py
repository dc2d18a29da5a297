"""Ranks, batches and GPUs: the layout of a run. Settings are nested, as given or as upstream has validated them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import NamedTuple

from rpg_openrlhf.errors import Refusal


class Plan(NamedTuple):
    world: int  # GPUs, or processes, of the policy
    sharing: int  # of them that work on one sequence
    ranks: int  # data-parallel
    samples: int  # of a rollout
    steps: int  # optimizer steps a rollout
    engine_gpus: int


def plan(s: SimpleNamespace) -> Plan:
    world, sharing = s.actor.num_nodes * s.actor.num_gpus_per_node, s.ds.ring_attn_size * s.ds.tensor_parallel_size
    samples = s.rollout.batch_size * s.rollout.n_samples_per_prompt
    steps = max(samples // s.train.batch_size, 1) * s.train.max_epochs
    engines = (s.vllm.num_engines or 0) * s.vllm.tensor_parallel_size
    return Plan(world, sharing, world // sharing, samples, steps, engines)


def splits_output_layer(s: SimpleNamespace) -> list[str]:
    """Flags that have others cut the output layer, its tokens or its graph: --actor.chunked_head then stands back."""
    sizes = {"ds.ring_attn_size": s.ds.ring_attn_size > 1, "ds.tensor_parallel_size": s.ds.tensor_parallel_size > 1}
    return [name for name, splits in {**sizes, "ds.deepcompile": s.ds.deepcompile}.items() if splits]


def has_reference_group(s: SimpleNamespace) -> bool:
    """True if upstream builds actors for a reference; RPG's reference lives in the policy's actors."""
    return s.algo.objective != "rpg" and s.algo.kl.init_coef > 0 and s.ref.refresh == "never"


def is_upstreams_async(s: SimpleNamespace) -> bool:
    """True if upstream's asynchronous trainer runs. RPG's is the synchronous one, with a thread that draws ahead."""
    return s.train.async_enable and s.algo.objective != "rpg"


def is_on_policy(s: SimpleNamespace) -> bool:
    """True if one optimizer step trains on all samples of a rollout, by the very policy that drew them."""
    same_weights = s.actor.optim != "schedulefree"  # which samples from x and trains at y
    return plan(s).samples == s.train.batch_size and s.train.max_epochs == 1 and same_weights


def rollouts(s: SimpleNamespace, prompts: int) -> int:
    """Rollouts of a whole run. An episode's rest goes into the next one; upstream's asynchronous trainer ends it."""
    batch, episodes = s.rollout.batch_size, s.train.num_episodes
    total = -(-prompts // batch) * episodes if is_upstreams_async(s) else prompts * episodes // batch
    return min(total, s.train.max_rollouts or total)


def check_last_rollout(s: SimpleNamespace, prompts: int | None) -> list[str]:
    """Check the prompts that fill no rollout: a Refusal, or notes."""
    if prompts is None:
        return []
    if is_upstreams_async(s):
        return _check_asynchronous_end(s, prompts)
    total, batch = prompts * s.train.num_episodes, s.rollout.batch_size
    left = total % batch
    if not left or s.algo.dynamic_filtering_enable:  # then only the run itself will tell
        return []
    if s.train.max_rollouts is not None and s.train.max_rollouts <= total // batch:
        return []
    return [f"the last {left} of the run's {total} prompts fill no rollout of {batch}: not trained on"]


def _check_asynchronous_end(s: SimpleNamespace, prompts: int) -> list[str]:
    """An episode's last rollout, with the prompts that are left, as upstream trains on it."""
    extra = prompts % s.rollout.batch_size
    left, trained, micro = extra * s.rollout.n_samples_per_prompt, prompts - extra, s.rollout.micro_batch_size
    if left and not s.train.dynamic_batch_enable and -(-left // micro) < s.plan.ranks:
        raise Refusal(
            f"--rollout.micro_batch_size {micro}: the last rollout of an episode has only {left} samples for "
            f"{s.plan.ranks} ranks; lower it, or leave the rest out with --data.max_samples {trained}"
        )
    if left % s.train.batch_size:
        return [
            f"an episode's last rollout has {left} samples, not a multiple of --train.batch_size "
            f"{s.train.batch_size}: --data.max_samples {trained} would leave it out"
        ]
    return []


def gpus_needed(s: SimpleNamespace) -> int:
    """GPUs that upstream's placement asks Ray for."""
    size = {name: vars(s)[name].num_nodes * vars(s)[name].num_gpus_per_node for name in ("ref", "critic", "reward")}
    needed = plan(s).world + (0 if s.train.colocate_all and not s.train.async_enable else plan(s).engine_gpus)
    if has_reference_group(s) and not (s.train.colocate_all or s.train.colocate_actor_ref):
        needed += size["ref"]
    reward = not (s.reward.remote_url or s.train.agent_func_path)
    critic = s.algo.advantage.estimator == "gae"
    if critic and s.train.colocate_critic_reward:
        needed += size["critic"]  # a placement group of their own, under colocate_all too
    elif not s.train.colocate_all:
        needed += (size["critic"] if critic else 0) + (size["reward"] if reward else 0)
    return needed
