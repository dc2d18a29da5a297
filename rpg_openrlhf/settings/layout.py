"""Ranks, batches and GPUs: how the run is laid out, and refusals of what does not divide or fit."""

from __future__ import annotations

from typing import Any

from rpg_openrlhf.errors import Refusal
from rpg_openrlhf.settings import machine


def data_parallel_ranks(flags: dict[str, Any]) -> int:
    world = flags["actor.num_nodes"] * flags["actor.num_gpus_per_node"]
    return world // flags["ds.ring_attn_size"] // flags["ds.tensor_parallel_size"]


def splits_output_layer(flags: dict[str, Any]) -> list[str]:
    """Flags that have others cut the output layer, its tokens or its graph: --actor.chunked_head then stands back."""
    sizes = [name for name in ("ds.ring_attn_size", "ds.tensor_parallel_size") if flags[name] > 1]
    return [*sizes, "ds.deepcompile"] if flags["ds.deepcompile"] else sizes


def has_reference_group(flags: dict[str, Any]) -> bool:
    """True if upstream builds actors for a reference; RPG's reference lives in the policy's actors."""
    return flags["algo.objective"] != "rpg" and flags["algo.kl.init_coef"] > 0 and flags["ref.refresh"] == "never"


def is_upstreams_async(flags: dict[str, Any]) -> bool:
    """True if upstream's asynchronous trainer runs. RPG's is the synchronous one, with a thread that draws ahead."""
    return flags["train.async_enable"] and flags["algo.objective"] != "rpg"


def is_on_policy(flags: dict[str, Any]) -> bool:
    """True if one optimizer step trains on all samples of a rollout, by the very policy that drew them."""
    one_step = flags["rollout.batch_size"] * flags["rollout.n_samples_per_prompt"] == flags["train.batch_size"]
    same_weights = flags["actor.optim"] != "schedulefree"  # which samples from x and trains at y
    return one_step and flags["train.max_epochs"] == 1 and same_weights


def check_divides(flags: dict[str, Any]) -> None:
    ranks, train = data_parallel_ranks(flags), flags["train.batch_size"]
    world, sharing = (
        flags["actor.num_nodes"] * flags["actor.num_gpus_per_node"],
        flags["ds.ring_attn_size"] * flags["ds.tensor_parallel_size"],
    )
    if world % sharing:
        raise Refusal(
            f"--actor.num_gpus_per_node {flags['actor.num_gpus_per_node']}: {world} GPUs do not split into groups of "
            f"{sharing} "
            "(--ds.ring_attn_size x --ds.tensor_parallel_size)"
        )
    prompts, group = flags["rollout.batch_size"], flags["rollout.n_samples_per_prompt"]
    samples = prompts * group
    made = f"a rollout's {samples} samples ({prompts} prompts x {group})"
    if samples % train:
        raise Refusal(f"--train.batch_size {train}: does not divide {made}; choose a divisor of {samples}")
    if flags["train.dynamic_batch_enable"]:
        micro_train = micro_rollout = 1
    else:
        micro_train, micro_rollout = flags["train.micro_batch_size"], flags["rollout.micro_batch_size"]
    if train % (micro_train * ranks):
        raise Refusal(
            f"--train.batch_size {train}: is not a multiple of --train.micro_batch_size {micro_train} x {ranks} "
            f"ranks = {micro_train * ranks}"
        )
    if samples % (micro_rollout * ranks):
        raise Refusal(
            f"--rollout.micro_batch_size {micro_rollout}: x {ranks} ranks = {micro_rollout * ranks} does not divide "
            f"{made}; choose a smaller one"
        )
    generated = flags["rollout.vllm_generate_batch_size"]
    if generated is not None and generated != flags["rollout.batch_size"] and not is_upstreams_async(flags):
        raise Refusal(
            f"--rollout.vllm_generate_batch_size {generated}: must be --rollout.batch_size "
            f"{flags['rollout.batch_size']} without "
            "--train.async_enable; leave it out"
        )


def rollouts(prompts: int, batch: int, episodes: int, is_async: bool) -> int:
    """Rollouts of a whole run. An episode's rest goes into the next one; upstream's asynchronous trainer ends it."""
    return -(-prompts // batch) * episodes if is_async else prompts * episodes // batch


def check_last_rollout(flags: dict[str, Any], prompts: int | None) -> list[str]:
    """Check the prompts that fill no rollout: a Refusal, or notes."""
    if prompts is None:
        return []
    batch, episodes = flags["rollout.batch_size"], flags["train.num_episodes"]
    if is_upstreams_async(flags):
        return _check_asynchronous_end(flags, prompts)
    rollouts, left = divmod(prompts * episodes, batch)
    if not left or flags["algo.dynamic_filtering_enable"]:  # then only the run itself will tell
        return []
    if flags["train.max_rollouts"] is not None and flags["train.max_rollouts"] <= rollouts:
        return []
    return [f"the last {left} of the run's {prompts * episodes} prompts fill no rollout of {batch}: not trained on"]


def _check_asynchronous_end(flags: dict[str, Any], prompts: int) -> list[str]:
    """An episode's last rollout, with the prompts that are left, as upstream trains on it."""
    left = prompts % flags["rollout.batch_size"] * flags["rollout.n_samples_per_prompt"]
    if not left:
        return []
    trained = prompts - prompts % flags["rollout.batch_size"]
    ranks, micro = data_parallel_ranks(flags), flags["rollout.micro_batch_size"]
    if not flags["train.dynamic_batch_enable"] and -(-left // micro) < ranks:
        raise Refusal(
            f"--rollout.micro_batch_size {micro}: the last rollout of an episode has only {left} samples for {ranks} "
            f"ranks; lower it, or leave the rest out with --data.max_samples {trained}"
        )
    if left % flags["train.batch_size"]:
        return [
            f"an episode's last rollout has {left} samples, not a multiple of --train.batch_size "
            f"{flags['train.batch_size']}: --data.max_samples {trained} would leave it out"
        ]
    return []


def check_placement(flags: dict[str, Any]) -> None:
    world, engines = (
        flags["actor.num_nodes"] * flags["actor.num_gpus_per_node"],
        flags["vllm.num_engines"] * flags["vllm.tensor_parallel_size"],
    )
    if flags["train.colocate_all"] and not flags["train.async_enable"] and world != engines:
        raise Refusal(
            f"--vllm.num_engines {flags['vllm.num_engines']}: x --vllm.tensor_parallel_size "
            f"{flags['vllm.tensor_parallel_size']} = {engines} GPUs, but "
            f"--train.colocate_all shares the actor's {world}; make them equal"
        )
    pairs = []
    if has_reference_group(flags) and (flags["train.colocate_all"] or flags["train.colocate_actor_ref"]):
        pairs.append(("ref", "actor"))
    if flags["algo.advantage.estimator"] == "gae" and flags["train.colocate_critic_reward"]:
        pairs.append(("reward", "critic"))
    for one, other in pairs:
        for leaf in ("num_nodes", "num_gpus_per_node"):
            mine, theirs = flags[f"{one}.{leaf}"], flags[f"{other}.{leaf}"]
            if mine != theirs:
                raise Refusal(
                    f"--{one}.{leaf} {mine}: must be {theirs}, as --{other}.{leaf}, when the two share their GPUs"
                )


def gpus_needed(flags: dict[str, Any]) -> int:
    """GPUs that upstream's placement asks Ray for."""
    size = {m: flags[f"{m}.num_nodes"] * flags[f"{m}.num_gpus_per_node"] for m in ("actor", "ref", "critic", "reward")}
    engines = flags["vllm.num_engines"] * flags["vllm.tensor_parallel_size"]
    needed = size["actor"] + (0 if flags["train.colocate_all"] and not flags["train.async_enable"] else engines)
    if has_reference_group(flags) and not (flags["train.colocate_all"] or flags["train.colocate_actor_ref"]):
        needed += size["ref"]
    reward = not (flags["reward.remote_url"] or flags["train.agent_func_path"])
    critic = flags["algo.advantage.estimator"] == "gae"
    if critic and flags["train.colocate_critic_reward"]:
        needed += size["critic"]  # a placement group of their own, under colocate_all too
    elif not flags["train.colocate_all"]:
        needed += (size["critic"] if critic else 0) + (size["reward"] if reward else 0)
    return needed


def notes_on_experts(config: dict[str, Any], platform: str) -> list[str]:
    """A warning where vLLM 0.29 is reported to compute the model wrongly. `config`: the model's config.json."""
    has_experts = any(config.get(name) for name in ("num_experts", "num_local_experts", "n_routed_experts"))
    if platform == "cpu" or not has_experts or config.get("quantization_config"):
        return []
    if not any(capability >= machine.BLACKWELL for capability in machine.compute_capabilities()):
        return []
    return [
        "vLLM 0.29 is reported to give wrong numbers for unquantized mixture-of-experts models on Blackwell GPUs: "
        "compare its log-probs with the trainer's (--algo.advantage.is_correction_level token logs vllm_kl) first"
    ]


def check_platform(flags: dict[str, Any], platform: str, dry_run: bool) -> None:
    if flags["ds.param_dtype"] == "fp16":
        raise Refusal("--ds.param_dtype fp16: vLLM's engines are built in bf16 and take no other weights; use bf16")
    if platform == "cpu":
        for name in ("ds.ring_attn_size", "ds.tensor_parallel_size"):
            if flags[name] > 1:
                raise Refusal(f"--{name} {flags[name]}: needs CUDA; leave it at 1 on the CPU platform")
        return
    if flags["ds.param_dtype"] == "fp32":
        raise Refusal("--ds.param_dtype fp32: is for the CPU platform; use bf16 on CUDA")
    if flags["ds.ring_attn_size"] > 1 and not machine.has_flash_attn():
        raise Refusal(
            f"--ds.ring_attn_size {flags['ds.ring_attn_size']}: ring attention needs the packages flash-attn and "
            "ring-flash-attn, which are not installed here (docs/scaling.md); install them, or set 1"
        )
    memory = machine.gpu_memory_gib()
    if not (memory or dry_run) and not machine.in_a_ray_cluster():
        raise Refusal(
            "--platform cuda: no CUDA device is visible on this machine; use --platform cpu, or a Ray cluster that "
            "has GPUs"
        )
    if memory and not machine.in_a_ray_cluster() and gpus_needed(flags) > len(memory):
        raise Refusal(
            f"--actor.num_gpus_per_node {flags['actor.num_gpus_per_node']}: the run asks for {gpus_needed(flags)} "
            "GPUs (actor, vLLM engines and other "
            f"models), this machine has {len(memory)}; ask for fewer, --train.colocate_all, or a Ray cluster that has "
            "them"
        )
