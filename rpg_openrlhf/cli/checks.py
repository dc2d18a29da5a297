"""Combinations of flags that cannot work or cannot act, refused before anything starts. Numbers only: files are
checked in files.py.

Every rule takes all flags by dotted name and raises a Refusal that names the flag, its value and the mend.
"""

from __future__ import annotations

import math
from typing import Any

from rpg_openrlhf.cli import layout, optimizer, reference_checks, weight_sync
from rpg_openrlhf.cli.flags import Parsed
from rpg_openrlhf.config import Refusal

AT_LEAST_ONE = (
    "rollout.batch_size", "rollout.n_samples_per_prompt", "rollout.micro_batch_size", "train.batch_size",
    "train.micro_batch_size", "train.max_epochs", "train.num_episodes", "data.max_len", "data.max_samples",
    "actor.num_nodes", "actor.num_gpus_per_node", "vllm.tensor_parallel_size", "ds.ring_attn_size",
    "ds.tensor_parallel_size", "logger.logging_steps", "eval.n_samples_per_prompt",
    "rollout.max_new_tokens", "rollout.vllm_generate_batch_size", "rollout.max_tokens_per_gpu",
)  # fmt: skip
GROUP_BASELINES = ("rloo", "reinforce_baseline", "group_norm", "dr_grpo")


def check_flags(parsed: Parsed, platform: str) -> None:
    """All rules on numbers and choices, the broad ones first."""
    v = parsed.values
    _check_ranges(v)
    weight_sync.check(v, platform)
    if parsed.config.algo.objective == "rpg":
        _check_rpg(v, parsed.explicit)
        reference_checks.check_reference(v)
        _check_rpg_kl(v)
    else:
        _check_baseline(v, parsed.explicit)
    _check_clip(v)
    _check_is_correction(v)
    _check_generation(v)
    _check_chunked_head(v)
    _check_checkpointing(v)
    optimizer.check(v)
    layout.check_divides(v)
    layout.check_placement(v)
    layout.check_platform(v, platform, parsed.dry_run)


def _check_ranges(v: dict[str, Any]) -> None:
    for name in AT_LEAST_ONE:
        if v[name] is not None and v[name] < 1:
            raise Refusal(f"--{name} {v[name]}: must be at least 1")
    for name in ("eval.steps", "ckpt.save_steps"):
        if v[name] != -1 and v[name] < 1:
            raise Refusal(f"--{name} {v[name]}: must be at least 1, or -1 for never")
    if not v["vllm.num_engines"] or v["vllm.num_engines"] < 1:
        raise Refusal(f"--vllm.num_engines {v['vllm.num_engines']}: rollouts need vLLM; give at least 1")
    if v["ds.zero_stage"] not in (0, 1, 2, 3):
        raise Refusal(f"--ds.zero_stage {v['ds.zero_stage']}: must be 0, 1, 2 or 3")
    if not (v["rollout.temperature"] > 0 and math.isfinite(v["rollout.temperature"])):
        raise Refusal(
            f"--rollout.temperature {v['rollout.temperature']}: must be above 0, as log-probs are divided by it"
        )
    for name in ("rollout.top_p", "vllm.gpu_memory_utilization"):
        if not 0 < v[name] <= 1:
            raise Refusal(f"--{name} {v[name]}: must be above 0 and at most 1")
    if not (v["actor.adam.lr"] >= 0 and math.isfinite(v["actor.adam.lr"])):
        raise Refusal(f"--actor.adam.lr {v['actor.adam.lr']}: must be a finite number >= 0")


def _check_rpg(v: dict[str, Any], explicit: set[str]) -> None:
    for name in sorted(explicit):
        if name.startswith("algo.kl."):
            raise Refusal(
                f"--{name} {v[name]}: RPG's KL is in its loss and its strength is --rpg.beta, so this would be a "
                "second KL; "
                "leave it out, or use --algo.objective openrlhf"
            )
        if name.startswith("critic.") and v[name] is not None:
            raise Refusal(f"--{name} {v[name]}: RPG has no critic; leave it out, or use --algo.objective openrlhf")
    if v["algo.advantage.estimator"] == "gae":
        raise Refusal(
            "--algo.advantage.estimator gae: RPG has no critic; use dr_grpo (group mean), flash_reinforce (batch "
            "mean), rloo or none"
        )
    if v["actor.policy_loss_type"] != "ppo":
        raise Refusal(
            f"--actor.policy_loss_type {v['actor.policy_loss_type']}: it does not reach RPG's loss; use "
            "--rpg.importance_level sequence"
        )
    if v["train.async_enable"]:
        raise Refusal(
            "--train.async_enable: asynchronous training is not supported with --algo.objective rpg yet; leave it out"
        )
    if v["data.max_images_per_prompt"] > 0:
        raise Refusal(
            f"--data.max_images_per_prompt {v['data.max_images_per_prompt']}: images are not supported with "
            "--algo.objective rpg; set 0"
        )
    if v["rpg.old_policy"] == "rollout" and v["algo.advantage.is_correction_level"] != "off":
        raise Refusal(
            f"--algo.advantage.is_correction_level {v['algo.advantage.is_correction_level']}: with --rpg.old_policy "
            "rollout the importance "
            "weight already corrects for vLLM; set off, or use --rpg.old_policy recompute"
        )


def _check_rpg_kl(v: dict[str, Any]) -> None:
    beta, samples = v["rpg.beta"], v["rollout.batch_size"] * v["rollout.n_samples_per_prompt"]
    anchored_anew = v["ref.refresh"] == "rollout" or (v["ref.interval"] == 1 and v["ref.mix"] in (None, 1))
    if beta > 0 and layout.is_on_policy(v) and anchored_anew and v["rpg.old_policy"] == "recompute":
        raise Refusal(
            f"--rpg.beta {beta}: the KL cannot act, as with one optimizer step per rollout (--train.batch_size "
            f"{samples}) the policy is its own reference on every sample; set --rpg.beta 0, a smaller "
            "--train.batch_size, or --ref.refresh never"
        )


def _check_baseline(v: dict[str, Any], explicit: set[str]) -> None:
    for name in sorted(explicit):
        if name.startswith("rpg.") or name in reference_checks.OURS:
            raise Refusal(
                f"--{name} {v[name]}: has no effect with --algo.objective openrlhf; leave it out, or use "
                "--algo.objective rpg"
            )
    if v["algo.advantage.estimator"] == "none":
        raise Refusal("--algo.advantage.estimator none: is RPG's own; with --algo.objective openrlhf use reinforce")
    if v["algo.kl.use_loss"] and not v["algo.kl.init_coef"] > 0:
        raise Refusal(
            f"--algo.kl.use_loss: cannot act with --algo.kl.init_coef {v['algo.kl.init_coef']}; give it a positive "
            "coefficient or leave it out"
        )


def _check_chunked_head(v: dict[str, Any]) -> None:
    for name in layout.splits_output_layer(v) if v["actor.chunked_head"] == "on" else ():
        raise Refusal(
            f"--actor.chunked_head on: not with --{name} {v[name]}, under which whole logits are computed; use auto"
        )


def _check_checkpointing(v: dict[str, Any]) -> None:
    layers = v["actor.gradient_checkpointing_layers"]
    if layers is None:
        return
    if not v["actor.gradient_checkpointing_enable"]:
        raise Refusal(
            f"--actor.gradient_checkpointing_layers {layers}: has no effect without "
            "--actor.gradient_checkpointing_enable"
        )
    if v["ds.deepcompile"]:
        raise Refusal(
            f"--actor.gradient_checkpointing_layers {layers}: not with --ds.deepcompile, which chooses by itself"
        )


def _check_clip(v: dict[str, Any]) -> None:
    name = "actor.eps_clip_low_high" if v["actor.eps_clip_low_high"] is not None else "actor.eps_clip"
    bounds = v[name] if isinstance(v[name], list | tuple) else [v[name]]
    for eps in bounds:
        if not 0 < eps < 1:
            raise Refusal(
                f"--{name} {' '.join(map(str, bounds))}: each bound must lie between 0 and 1, such as 0.2 0.28"
            )
    if v["actor.dual_clip"] is not None and not v["actor.dual_clip"] > 1:
        raise Refusal(f"--actor.dual_clip {v['actor.dual_clip']}: must be above 1, such as 10")


def _check_is_correction(v: dict[str, Any]) -> None:
    level, gating = v["algo.advantage.is_correction_level"], v["algo.advantage.is_correction_gating"]
    threshold = v["algo.advantage.is_correction_threshold"]
    if len(threshold) > 2:
        raise Refusal(
            f"--algo.advantage.is_correction_threshold {' '.join(map(str, threshold))}: give HIGH, or LOW HIGH"
        )
    if level == "off":
        return
    if v["algo.advantage.is_correction_mode"] == "clip" and (level == "seq" or gating != "ratio"):
        raise Refusal(
            "--algo.advantage.is_correction_mode clip: only a token's ratio can be clipped; use "
            "--algo.advantage.is_correction_level token with --algo.advantage.is_correction_gating ratio, or mode mask"
        )
    if gating != "ratio" and len(threshold) == 2 and threshold[0] > 0:
        raise Refusal(
            f"--algo.advantage.is_correction_gating {gating}: is bounded from above only; give one "
            f"--algo.advantage.is_correction_threshold, not {' '.join(map(str, threshold))}"
        )


def _check_generation(v: dict[str, Any]) -> None:
    estimator, samples = v["algo.advantage.estimator"], v["rollout.n_samples_per_prompt"]
    if estimator in GROUP_BASELINES and samples < 2:
        raise Refusal(
            f"--rollout.n_samples_per_prompt {samples}: with the group baseline {estimator} every advantage would be "
            "0; give at least 2"
        )
    budget = v["rollout.max_new_tokens"]
    if budget is not None and budget >= v["data.max_len"]:
        raise Refusal(
            f"--rollout.max_new_tokens {budget}: leaves no room for a prompt in --data.max_len {v['data.max_len']}; "
            "lower it"
        )
    buffer = v["reward.overlong_buffer_len"]
    if buffer is not None and not 0 < buffer <= (budget or v["data.max_len"]):
        raise Refusal(
            f"--reward.overlong_buffer_len {buffer}: must be above 0 and at most the response budget "
            f"{budget or v['data.max_len']}"
        )
    if v["algo.dynamic_filtering_enable"]:
        low, high = v["algo.dynamic_filtering_range"]
        if not low < high:
            raise Refusal(f"--algo.dynamic_filtering_range {low} {high}: the first bound must be below the second")
        if samples < 2:
            raise Refusal(
                f"--rollout.n_samples_per_prompt {samples}: --algo.dynamic_filtering_enable needs at least 2"
            )
        if not (v["reward.remote_url"] or v["train.agent_func_path"]):
            raise Refusal(
                "--algo.dynamic_filtering_enable: needs scores, which --reward.model_name_or_path does not give; use "
                "--reward.remote_url"
            )
