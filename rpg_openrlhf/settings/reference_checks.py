"""Rules for `--ref.*`: arguments without effect, and settings that do not support a reference's weights."""

from __future__ import annotations

from operator import attrgetter
from typing import Any

from rpg_openrlhf.errors import Refusal
from rpg_openrlhf.reference.schedule import RULES, rollouts_for
from rpg_openrlhf.settings import own_flags
from rpg_openrlhf.settings.rules import rule, where
from rpg_openrlhf.settings.run_settings import Settings

# `--ref.num_nodes`, `--ref.num_gpus_per_node` and `--ref.offload` are upstream's.
OURS = tuple(flag.name for flag in own_flags.FLAGS if flag.name.startswith("ref."))
ARCHITECTURE = (
    "model_type", "architectures", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "vocab_size", "tie_word_embeddings", "hidden_act", "rms_norm_eps", "rope_theta",
    "rope_scaling", "rope_parameters", "num_experts", "num_experts_per_tok", "moe_intermediate_size",
)  # fmt: skip


def holds_reference(s: Settings) -> bool:
    """True if an RPG run holds the weights of a reference."""
    return s.algo.objective == "rpg" and RULES[s.ref.refresh].holds_weights


def _arguments(s: Settings) -> str | None:
    """Refuse arguments that the rule does not use, and a rule without the argument that it needs."""
    mode, chosen = s.ref.refresh, RULES[s.ref.refresh]
    for flag in OURS:
        name, value = flag.removeprefix("ref."), attrgetter(flag)(s)
        if name != "refresh" and value is not None and value is not False and name not in chosen.uses:
            shown = "" if value is True else f" {value}"
            others = " or ".join(other for other in RULES if name in RULES[other].uses)
            return f"--{flag}{shown}: cannot act with --ref.refresh {mode}; use --ref.refresh {others}"
    if chosen.needs and vars(s.ref)[chosen.needs[0]] is None:
        name, example = chosen.needs
        return f"--ref.refresh {mode}: needs --ref.{name}; give it, such as --ref.{name} {example}"
    return None


def _moves_every_rollout(s: Settings) -> bool:
    return s.ref.interval is not None and s.ref.interval <= s.plan.steps


# fmt: off
REFERENCE = (
    _arguments,
    where(holds_reference,
        rule(lambda s: s.rpg.beta == 0,
             "--ref.refresh {ref.refresh}: no reference is used with --rpg.beta 0; leave it out, or give --rpg.beta"),
        rule(lambda s: s.ref.refresh == "ema" and s.ref.mix == 1,
             "--ref.mix 1: with --ref.refresh ema the reference would be the policy; use --ref.refresh rollout"),
        rule(lambda s: s.ref.interval is not None and (s.ref.min_interval or 0) > s.ref.interval,
             "--ref.min_interval {ref.min_interval}: the KL cannot act, as --ref.interval {ref.interval} moves the "
             "reference before; lower it"),
        rule(lambda s: s.ref.min_interval is not None and s.ref.min_interval <= s.plan.steps,
             "--ref.min_interval {ref.min_interval}: cannot act, as the reference moves between rollouts and a "
             "rollout takes {plan.steps} optimizer steps; give more than {plan.steps}, or leave it out"),
        rule(lambda s: s.ref.kl_target is not None and _moves_every_rollout(s),
             "--ref.kl_target {ref.kl_target}: cannot act, as --ref.interval {ref.interval} moves the reference after "
             "every rollout of {plan.steps} optimizer steps; raise --ref.interval"),
        # Settings not supported for the reference's weights, which are partitioned as the policy's are.
        rule(lambda s: s.ds.zpg > 1,
             "--ds.zpg {ds.zpg}: ZeRO++ keeps a second partition that a reference model's weights would not reach; "
             "set 1, or use --ref.refresh rollout"),
        rule(lambda s: s.ds.deepcompile,
             "--ds.deepcompile: is not supported with a reference model; leave it out, or use --ref.refresh rollout"),
        rule(lambda s: s.ref.model_name_or_path and s.ds.tensor_parallel_size > 1,
             "--ref.model_name_or_path {ref.model_name_or_path}: cannot be split over --ds.tensor_parallel_size "
             "{ds.tensor_parallel_size}; leave it out, or set that to 1"),
        rule(lambda s: s.ref.reset_optimizer and s.actor.optim != "adam",
             "--ref.reset_optimizer: clears Adam's moments, not those of --actor.optim {actor.optim}; leave it out, "
             "or use --actor.optim adam")),
)
# fmt: on


def check_run_length(s: Settings, rollouts: int | None) -> list[str]:
    """Refuse intervals longer than the run; return a note if the reference moves after every rollout."""
    if not holds_reference(s):
        return []
    if rollouts is not None:
        for name, value in (("interval", s.ref.interval), ("min_interval", s.ref.min_interval)):
            # Nothing reads a reference that moves after the last rollout.
            if value is not None and rollouts_for(value, s.plan.steps) >= rollouts:
                raise Refusal(
                    f"--ref.{name} {value}: cannot act, as the run has {rollouts} rollouts of {s.plan.steps} "
                    "optimizer steps and the reference moves between them; lower it"
                )
    if _moves_every_rollout(s) and s.ref.mix in (None, 1) and s.rpg.old_policy == "recompute":
        return [
            f"--ref.interval {s.ref.interval}: a rollout takes {s.plan.steps} optimizer steps, so the reference moves "
            "after each; --ref.refresh rollout is the same without a reference model"
        ]
    return []


def check_same_architecture(name: str | None, reference: dict[str, Any], policy: dict[str, Any]) -> None:
    """Compare two config.json: the keys that decide shapes or meaning of weights must agree if both have them."""
    for key in ARCHITECTURE:
        if key in reference and key in policy and reference[key] != policy[key]:
            raise Refusal(
                f"--ref.model_name_or_path {name}: its {key} is {reference[key]}, the policy's {policy[key]}; give a "
                "reference of the policy's architecture, such as an earlier checkpoint"
            )
