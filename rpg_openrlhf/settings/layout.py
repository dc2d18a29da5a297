"""Layout of a run: ranks, batches and GPUs. Functions take nested settings, before or after upstream's validation."""

from __future__ import annotations

from types import SimpleNamespace
from typing import NamedTuple

from rpg_openrlhf.errors import Refusal


class Plan(NamedTuple):
    world: int  # GPUs, or processes, of the policy
    sharing: int  # GPUs that share one sequence: ring attention x tensor parallelism
    ranks: int  # data-parallel ranks
    samples: int  # samples per rollout
    steps: int  # optimizer steps per rollout
    engine_gpus: int


def plan(s: SimpleNamespace) -> Plan:
    world, sharing = s.actor.num_nodes * s.actor.num_gpus_per_node, s.ds.ring_attn_size * s.ds.tensor_parallel_size
    samples = s.rollout.batch_size * s.rollout.n_samples_per_prompt
    steps = max(samples // s.train.batch_size, 1) * s.train.max_epochs
    engines = (s.vllm.num_engines or 0) * s.vllm.tensor_parallel_size
    return Plan(world, sharing, world // sharing, samples, steps, engines)


def splits_output_layer(s: SimpleNamespace) -> list[str]:
    """Active flags that split the output layer, its tokens or its graph; they exclude --actor.chunked_head on."""
    sizes = {"ds.ring_attn_size": s.ds.ring_attn_size > 1, "ds.tensor_parallel_size": s.ds.tensor_parallel_size > 1}
    return [name for name, splits in {**sizes, "ds.deepcompile": s.ds.deepcompile}.items() if splits]


def has_reference_group(s: SimpleNamespace) -> bool:
    """True if upstream builds actors for a reference; RPG's reference lives in the policy's actors."""
    return s.algo.objective != "rpg" and s.algo.kl.init_coef > 0 and s.ref.refresh == "never"


def is_upstreams_async(s: SimpleNamespace) -> bool:
    """True if upstream's asynchronous trainer runs. RPG uses the synchronous one; a thread samples ahead."""
    return s.train.async_enable and s.algo.objective != "rpg"


def is_on_policy(s: SimpleNamespace) -> bool:
    """True if one optimizer step trains on all samples of a rollout, with the weights that sampled them."""
    same_weights = s.actor.optim != "schedulefree"  # Schedule-Free samples at x, trains at y
    return plan(s).samples == s.train.batch_size and s.train.max_epochs == 1 and same_weights


def rollouts(s: SimpleNamespace, prompts: int) -> int:
    """Number of rollouts in the run. Prompts left at the end of an episode start the next rollout.

    Only upstream's asynchronous trainer ends each episode with a smaller rollout.
    """
    batch, episodes = s.rollout.batch_size, s.train.num_episodes
    total = -(-prompts // batch) * episodes if is_upstreams_async(s) else prompts * episodes // batch
    return min(total, s.train.max_rollouts or total)


def optimizer_steps(s: SimpleNamespace, prompts: int) -> int:
    """Number of optimizer steps in the run, over which the learning rate is scheduled."""
    if not is_upstreams_async(s):
        return rollouts(s, prompts) * plan(s).steps
    per_episode = prompts * s.rollout.n_samples_per_prompt // s.train.batch_size
    steps = per_episode * s.train.num_episodes * s.train.max_epochs
    return min(steps, (s.train.max_rollouts or steps) * plan(s).steps)


def check_evaluation(s: SimpleNamespace, rollouts: int | None) -> None:
    """Refuse an evaluation during training that the run ends before. Sets mixed by probability may last longer."""
    if s.eval.dataset and rollouts is not None and s.eval.steps > rollouts and not s.data.prompt_probs:
        raise Refusal(
            f"--eval.steps {s.eval.steps}: would never be reached, as the run has {rollouts} rollouts; lower it"
        )


def check_last_rollout(s: SimpleNamespace, prompts: int | None) -> list[str]:
    """Check the prompts left after the last full rollout: a Refusal, or notes to print."""
    if prompts is None:
        return []
    if is_upstreams_async(s):
        return _check_asynchronous_end(s, prompts)
    total, batch = prompts * s.train.num_episodes, s.rollout.batch_size
    left = total % batch
    if not left or s.algo.dynamic_filtering_enable:  # filtering: known only during the run
        return []
    if s.train.max_rollouts is not None and s.train.max_rollouts <= total // batch:
        return []
    return [f"the last {left} of the run's {total} prompts fill no rollout of {batch}: not trained on"]


def _check_asynchronous_end(s: SimpleNamespace, prompts: int) -> list[str]:
    """Check the smaller last rollout of an episode, on which upstream's asynchronous trainer trains."""
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
    """Number of GPUs that upstream's placement groups request from Ray."""
    size = {name: vars(s)[name].num_nodes * vars(s)[name].num_gpus_per_node for name in ("ref", "critic", "reward")}
    needed = plan(s).world + (0 if s.train.colocate_all and not s.train.async_enable else plan(s).engine_gpus)
    if has_reference_group(s) and not (s.train.colocate_all or s.train.colocate_actor_ref):
        needed += size["ref"]
    reward = not (s.reward.remote_url or s.train.agent_func_path)
    critic = s.algo.advantage.estimator == "gae"
    if critic and s.train.colocate_critic_reward:
        needed += size["critic"]  # critic and reward have their own placement group, even under colocate_all
    elif not s.train.colocate_all:
        needed += (size["critic"] if critic else 0) + (size["reward"] if reward else 0)
    return needed
