"""Arguments of the reference's schedule that could not act, refused before anything starts."""

from __future__ import annotations

from typing import Any

from rpg_openrlhf.errors import Refusal
from rpg_openrlhf.reference.schedule import RULES, first_rollout_of
from rpg_openrlhf.settings import layout
from rpg_openrlhf.settings import own_flags as config

# `--ref.num_nodes`, `--ref.num_gpus_per_node` and `--ref.offload` are upstream's.
OURS = tuple(flag.name for flag in config.flags() if flag.name.startswith("ref."))


def has_reference(flags: dict[str, Any]) -> bool:
    """True if an RPG run holds the weights of a reference."""
    return flags["algo.objective"] == "rpg" and RULES[flags["ref.refresh"]].holds_weights


def steps_per_rollout(flags: dict[str, Any]) -> int:
    samples = flags["rollout.batch_size"] * flags["rollout.n_samples_per_prompt"]
    return max(samples // flags["train.batch_size"], 1) * flags["train.max_epochs"]


def check_reference(flags: dict[str, Any]) -> None:
    """All rules on `--ref.*` of an RPG run that its flags alone can break."""
    mode = flags["ref.refresh"]
    rule = RULES[mode]
    for flag in OURS:
        name, value = flag.removeprefix("ref."), flags[flag]
        if name != "refresh" and value is not None and value is not False and name not in rule.uses:
            shown = "" if value is True else f" {value}"
            others = " or ".join(other for other in RULES if name in RULES[other].uses)
            raise Refusal(f"--{flag}{shown}: cannot act with --ref.refresh {mode}; use --ref.refresh {others}")
    if rule.needs and flags[f"ref.{rule.needs[0]}"] is None:
        name, example = rule.needs
        raise Refusal(f"--ref.refresh {mode}: needs --ref.{name}; give it, such as --ref.{name} {example}")
    if not rule.holds_weights:
        return
    if flags["rpg.beta"] == 0:
        raise Refusal(
            f"--ref.refresh {mode}: with --rpg.beta 0 no reference is read; leave it out, or give --rpg.beta"
        )
    if mode == "ema" and flags["ref.mix"] == 1:
        raise Refusal(
            "--ref.mix 1: with --ref.refresh ema the reference would be the policy; use --ref.refresh rollout"
        )
    _check_steps(flags)
    _check_weights(flags)


def _check_steps(flags: dict[str, Any]) -> None:
    interval, least, steps = flags["ref.interval"], flags["ref.min_interval"], steps_per_rollout(flags)
    if interval is not None and least is not None and least > interval:
        raise Refusal(
            f"--ref.min_interval {least}: the KL could move nothing before --ref.interval {interval} does; lower it"
        )
    if least is not None and least <= steps:
        raise Refusal(
            f"--ref.min_interval {least}: cannot act, as the reference moves between rollouts and a rollout takes "
            f"{steps} optimizer steps; give more than {steps}, or leave it out"
        )
    if flags["ref.kl_target"] is not None and interval is not None and interval <= steps:
        raise Refusal(
            f"--ref.kl_target {flags['ref.kl_target']}: cannot act, as --ref.interval {interval} moves the reference "
            f"after every rollout of {steps} optimizer steps; raise --ref.interval"
        )


def _check_weights(flags: dict[str, Any]) -> None:
    """Refuse layouts that the reference's weights, held in the policy's own partition, cannot follow."""
    if flags["ds.zpg"] > 1:
        raise Refusal(
            f"--ds.zpg {flags['ds.zpg']}: ZeRO++ keeps a second partition that a reference model's weights would not "
            "reach; set 1, or use --ref.refresh rollout"
        )
    if flags["ds.deepcompile"]:
        raise Refusal(
            "--ds.deepcompile: is not supported with a reference model; leave it out, or use --ref.refresh rollout"
        )
    if flags["ref.model_name_or_path"] and flags["ds.tensor_parallel_size"] > 1:
        raise Refusal(
            f"--ref.model_name_or_path {flags['ref.model_name_or_path']}: cannot be split over "
            f"--ds.tensor_parallel_size {flags['ds.tensor_parallel_size']}; leave it out, or set that to 1"
        )
    if flags["ref.reset_optimizer"] and flags["actor.optim"] != "adam":
        raise Refusal(
            f"--ref.reset_optimizer: knows Adam's moments, not those of --actor.optim {flags['actor.optim']}; leave "
            "it out, or use --actor.optim adam"
        )


def check_run_length(flags: dict[str, Any], prompts: int | None) -> list[str]:
    """Intervals longer than the run are refused; a note where the reference moves after every rollout."""
    if not has_reference(flags):
        return []
    steps, interval = steps_per_rollout(flags), flags["ref.interval"]
    if prompts is not None:
        rollouts = layout.rollouts(
            prompts, flags["rollout.batch_size"], flags["train.num_episodes"], layout.is_upstreams_async(flags)
        )
        rollouts = min(rollouts, flags["train.max_rollouts"] or rollouts)
        for name in ("interval", "min_interval"):
            value = flags[f"ref.{name}"]
            # A reference that moves after the last rollout is one that nothing reads.
            if value is not None and first_rollout_of(value, steps) >= rollouts:
                raise Refusal(
                    f"--ref.{name} {value}: cannot act, as the run has {rollouts} rollouts of {steps} optimizer steps "
                    "and the reference moves between them; lower it"
                )
    if (
        interval is not None
        and interval <= steps
        and flags["ref.mix"] in (None, 1)
        and flags["rpg.old_policy"] == "recompute"
    ):
        return [
            f"--ref.interval {interval}: a rollout takes {steps} optimizer steps, so the reference moves after each; "
            "--ref.refresh rollout is the same without a reference model"
        ]
    return []


def check_same_architecture(name: str, reference: dict[str, Any], policy: dict[str, Any]) -> None:
    """Two config.json: what decides the shapes of weights, or what they mean, must agree where both say it."""
    for key in ARCHITECTURE:
        if key in reference and key in policy and reference[key] != policy[key]:
            raise Refusal(
                f"--ref.model_name_or_path {name}: its {key} is {reference[key]}, the policy's {policy[key]}; give a "
                "reference of the policy's architecture, such as an earlier checkpoint"
            )


ARCHITECTURE = (
    "model_type", "architectures", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "vocab_size", "tie_word_embeddings", "hidden_act", "rms_norm_eps", "rope_theta",
    "rope_scaling", "rope_parameters", "num_experts", "num_experts_per_tok", "moe_intermediate_size",
)  # fmt: skip
