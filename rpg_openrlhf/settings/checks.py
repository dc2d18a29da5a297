"""Combinations of flags that cannot work or cannot act, refused before anything starts. Numbers only: files are
checked in files.py.

Every rule takes all flags by dotted name and raises a Refusal that names the flag, its value and the mend.
"""

from __future__ import annotations

from typing import Any

from rpg_openrlhf.errors import Refusal
from rpg_openrlhf.settings import defaults as settle
from rpg_openrlhf.settings import layout, machine, optimizer, reference_checks, weight_sync
from rpg_openrlhf.settings.parser import Parsed
from rpg_openrlhf.settings.ranges import check_ranges

GROUP_BASELINES = ("rloo", "reinforce_baseline", "group_norm", "dr_grpo")


def check_flags(parsed: Parsed, platform: str) -> None:
    """All rules on numbers and choices, the broad ones first."""
    flags = parsed.values
    if flags["vllm.num_engines"] is None:
        raise Refusal("--vllm.num_engines is missing: rollouts need vLLM; give at least 1")
    check_ranges(flags)
    weight_sync.check(flags, platform)
    if parsed.config.algo.objective == "rpg":
        _check_rpg(flags, parsed.explicit)
        reference_checks.check_reference(flags)
        _check_rpg_kl(flags)
    else:
        _check_baseline(flags, parsed.explicit)
    _check_is_correction(flags)
    _check_clip(flags, parsed.explicit)
    _check_generation(flags)
    _check_attention(flags, parsed.explicit, platform)
    _check_chunked_head(flags)
    _check_checkpointing(flags)
    optimizer.check(flags)
    layout.check_divides(flags)
    layout.check_placement(flags)
    layout.check_platform(flags, platform, parsed.dry_run)


def _check_attention(flags: dict[str, Any], explicit: set[str], platform: str) -> None:
    is_asked_for = "ds.attn_implementation" in explicit and flags["ds.attn_implementation"] == machine.FLASH_ATTENTION
    if platform != "cpu" and is_asked_for and not machine.has_flash_attn():
        raise Refusal(
            f"--ds.attn_implementation {machine.FLASH_ATTENTION}: the package flash-attn is not installed here "
            "(docs/scaling.md); install it, or leave the flag out, which takes sdpa"
        )


def _check_rpg(flags: dict[str, Any], explicit: set[str]) -> None:
    for name in sorted(explicit):
        if name.startswith("algo.kl."):
            raise Refusal(
                f"--{name} {flags[name]}: RPG's KL is in its loss and its strength is --rpg.beta, so this would be a "
                "second KL; "
                "leave it out, or use --algo.objective openrlhf"
            )
        if name.startswith("critic.") and flags[name] is not None:
            raise Refusal(f"--{name} {flags[name]}: RPG has no critic; leave it out, or use --algo.objective openrlhf")
    if flags["algo.advantage.estimator"] == "gae":
        raise Refusal(
            "--algo.advantage.estimator gae: RPG has no critic; use dr_grpo (group mean), flash_reinforce (batch "
            "mean), rloo or none"
        )
    if flags["actor.policy_loss_type"] != "ppo":
        raise Refusal(
            f"--actor.policy_loss_type {flags['actor.policy_loss_type']}: it does not reach RPG's loss; use "
            "--rpg.importance_level sequence"
        )
    if flags["rpg.clip_mode"] == "truncate" and flags["rpg.gradient_estimator"] != "reinforce":
        raise Refusal(
            "--rpg.clip_mode truncate: needs --rpg.gradient_estimator reinforce; with differentiable "
            "a bound has no gradient, which is the gate"
        )
    if flags["rpg.reward_weight"] == "sequence" and flags["rpg.importance_level"] != "prefix":
        raise Refusal(
            f"--rpg.reward_weight sequence: cannot act with --rpg.importance_level {flags['rpg.importance_level']}; "
            "use --rpg.importance_level prefix"
        )
    if flags["train.async_enable"] and flags["rpg.old_policy"] != "rollout":
        raise Refusal(
            f"--rpg.old_policy {flags['rpg.old_policy']}: with --train.async_enable the policy that recomputes is "
            "newer than the one that sampled; use --rpg.old_policy rollout"
        )
    if flags["train.partial_rollout_enable"] and not flags["train.async_queue_size"]:
        raise Refusal(
            "--train.partial_rollout_enable: cannot act with --train.async_queue_size 0, where no reply is under way "
            "when weights are sent; set 1 or more"
        )
    if flags["data.max_images_per_prompt"] > 0:
        raise Refusal(
            f"--data.max_images_per_prompt {flags['data.max_images_per_prompt']}: images are not supported with "
            "--algo.objective rpg; set 0"
        )
    if flags["rpg.old_policy"] == "rollout" and flags["algo.advantage.is_correction_level"] != "off":
        raise Refusal(
            f"--algo.advantage.is_correction_level {flags['algo.advantage.is_correction_level']}: with "
            "--rpg.old_policy rollout the importance "
            "weight already corrects for vLLM; set off, or use --rpg.old_policy recompute"
        )


def _check_rpg_kl(flags: dict[str, Any]) -> None:
    beta, samples = flags["rpg.beta"], flags["rollout.batch_size"] * flags["rollout.n_samples_per_prompt"]
    anchored_anew = flags["ref.refresh"] == "rollout" or (flags["ref.interval"] == 1 and flags["ref.mix"] in (None, 1))
    if beta > 0 and layout.is_on_policy(flags) and anchored_anew and flags["rpg.old_policy"] == "recompute":
        raise Refusal(
            f"--rpg.beta {beta}: the KL cannot act, as with one optimizer step per rollout (--train.batch_size "
            f"{samples}) the policy is its own reference on every sample; set --rpg.beta 0, a smaller "
            "--train.batch_size, or --ref.refresh never"
        )


def _check_baseline(flags: dict[str, Any], explicit: set[str]) -> None:
    for name in sorted(explicit):
        if name.startswith("rpg.") or (name in reference_checks.OURS and name != "ref.refresh"):
            raise Refusal(
                f"--{name} {flags[name]}: has no effect with --algo.objective openrlhf; leave it out, or use "
                "--algo.objective rpg"
            )
    if flags["ref.refresh"] not in ("never", "rollout"):
        raise Refusal(
            f"--ref.refresh {flags['ref.refresh']}: with --algo.objective openrlhf the reference is fixed (never) or "
            "the policy that sampled (rollout)"
        )
    if "ref.refresh" in explicit and not flags["algo.kl.init_coef"] > 0:
        raise Refusal(
            f"--ref.refresh {flags['ref.refresh']}: with --algo.kl.init_coef {flags['algo.kl.init_coef']:g} no "
            "reference is read; leave it out, or give a coefficient"
        )
    if flags["ref.refresh"] == "rollout" and flags["algo.kl.target"] is not None:
        raise Refusal(
            f"--algo.kl.target {flags['algo.kl.target']}: has no effect with --ref.refresh rollout, whose coefficient "
            "is fixed; leave it out"
        )
    if flags["ref.refresh"] == "rollout" and not flags["algo.kl.use_loss"]:
        raise Refusal(
            "--ref.refresh rollout: cannot act without a KL in the loss; give --algo.kl.use_loss, or leave it out"
        )
    if flags["algo.advantage.estimator"] == "none":
        raise Refusal("--algo.advantage.estimator none: is RPG's own; with --algo.objective openrlhf use reinforce")
    if flags["algo.kl.use_loss"] and not flags["algo.kl.init_coef"] > 0:
        raise Refusal(
            f"--algo.kl.use_loss: cannot act with --algo.kl.init_coef {flags['algo.kl.init_coef']}; give it a "
            "positive coefficient or leave it out"
        )


def _check_chunked_head(flags: dict[str, Any]) -> None:
    for name in layout.splits_output_layer(flags) if flags["actor.chunked_head"] == "on" else ():
        raise Refusal(
            f"--actor.chunked_head on: not with --{name} {flags[name]}, under which whole logits are computed; use "
            "auto"
        )


def _check_checkpointing(flags: dict[str, Any]) -> None:
    layers = flags["actor.gradient_checkpointing_layers"]
    if layers is None:
        return
    if not flags["actor.gradient_checkpointing_enable"]:
        raise Refusal(
            f"--actor.gradient_checkpointing_layers {layers}: has no effect without "
            "--actor.gradient_checkpointing_enable"
        )
    if flags["ds.deepcompile"]:
        raise Refusal(
            f"--actor.gradient_checkpointing_layers {layers}: not with --ds.deepcompile, which chooses by itself"
        )


def _check_is_correction(flags: dict[str, Any]) -> None:
    level, gating = flags["algo.advantage.is_correction_level"], flags["algo.advantage.is_correction_gating"]
    threshold = flags["algo.advantage.is_correction_threshold"]
    if len(threshold) > 2:
        raise Refusal(
            f"--algo.advantage.is_correction_threshold {' '.join(map(str, threshold))}: give HIGH, or LOW HIGH"
        )
    if level == "off":
        return
    if level == "token" and flags["algo.objective"] == "rpg" and flags["rpg.importance_level"] == "sequence":
        raise Refusal(
            "--algo.advantage.is_correction_level token: with --rpg.importance_level sequence every token's share of "
            "the loss has the gradient of the whole reply; use --algo.advantage.is_correction_level seq"
        )
    if flags["algo.advantage.is_correction_mode"] == "clip" and (level == "seq" or gating != "ratio"):
        raise Refusal(
            "--algo.advantage.is_correction_mode clip: only a token's ratio can be clipped; use "
            "--algo.advantage.is_correction_level token with --algo.advantage.is_correction_gating ratio, or mode mask"
        )
    if gating != "ratio" and len(threshold) == 2 and threshold[0] > 0:
        raise Refusal(
            f"--algo.advantage.is_correction_gating {gating}: is bounded from above only; give one "
            f"--algo.advantage.is_correction_threshold, not {' '.join(map(str, threshold))}"
        )


def _check_clip(flags: dict[str, Any], explicit: set[str]) -> None:
    both, bounds = flags["actor.eps_clip"], flags["actor.eps_clip_low_high"]
    upstreams = 0.2  # its default, which a config.yaml of an earlier version holds
    if "actor.eps_clip" in explicit and both != upstreams and bounds and list(bounds) != [both, both]:
        raise Refusal(
            f"--actor.eps_clip {both}: --actor.eps_clip_low_high {bounds[0]} {bounds[1]} wins over it; give "
            f"--actor.eps_clip_low_high {both} {both}"
        )


def _check_generation(flags: dict[str, Any]) -> None:
    estimator, samples = flags["algo.advantage.estimator"], flags["rollout.n_samples_per_prompt"]
    if estimator in GROUP_BASELINES and samples < 2:
        raise Refusal(
            f"--rollout.n_samples_per_prompt {samples}: with the group baseline {estimator} every advantage would be "
            "0; give at least 2"
        )
    budget = flags["rollout.max_new_tokens"]
    if budget is not None and budget >= flags["data.max_len"]:
        raise Refusal(
            f"--rollout.max_new_tokens {budget}: leaves no room for a prompt in --data.max_len "
            f"{flags['data.max_len']}; lower it"
        )
    buffer = flags["reward.overlong_buffer_len"]
    if buffer is not None and buffer > (budget or flags["data.max_len"]):
        raise Refusal(
            f"--reward.overlong_buffer_len {buffer}: must be at most the response budget "
            f"{budget or flags['data.max_len']}"
        )
    _check_stop_penalty(flags)
    if flags["algo.dynamic_filtering_enable"]:
        low, high = flags["algo.dynamic_filtering_range"]
        if not low < high:
            raise Refusal(f"--algo.dynamic_filtering_range {low} {high}: the first bound must be below the second")
        if flags["reward.remote_url"] == settle.REWARD_FUNC and (low >= 1 or high <= 0):
            raise Refusal(
                f"--algo.dynamic_filtering_range {low} {high}: no group passes, as its mean score lies between 0 and "
                "1; give bounds such as 0 1"
            )
        if samples < 2:
            raise Refusal(
                f"--rollout.n_samples_per_prompt {samples}: --algo.dynamic_filtering_enable needs at least 2"
            )
        if not (flags["reward.remote_url"] or flags["train.agent_func_path"]):
            raise Refusal(
                "--algo.dynamic_filtering_enable: needs scores, which --reward.model_name_or_path does not give; use "
                "--reward.remote_url"
            )


def _check_stop_penalty(flags: dict[str, Any]) -> None:
    """Upstream multiplies a cut-off reply's reward by a coefficient of 0 to 1, or sets it to a negative one."""
    coefficient = flags["reward.stop_properly_penalty_coef"]
    if coefficient is None or coefficient < 0:
        return
    if flags["reward.remote_url"] == settle.REWARD_FUNC:
        raise Refusal(
            f"--reward.stop_properly_penalty_coef {coefficient}: multiplies the reward of replies that are cut off, "
            "and would raise the -1 of a wrong one; give a negative number, which is their reward, such as -1"
        )
