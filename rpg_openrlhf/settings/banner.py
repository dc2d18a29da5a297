"""The block printed at start: the objective as it will be optimized, and the run's arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from rpg_openrlhf.objectives.divergences import DIVERGENCES
from rpg_openrlhf.reference.schedule import RULES
from rpg_openrlhf.settings import layout

BASELINES = {
    "dr_grpo": "group mean", "group_norm": "group mean, divided by the group's std",
    "rloo": "leave-one-out mean of the group",
    "flash_reinforce": "mean of the rollout batch", "reinforce_baseline": "group mean, then whitened over the batch",
    "reinforce": "none, whitened over the batch", "none": "none", "gae": "a critic (GAE)",
}  # fmt: skip


def optimizer_steps(args: SimpleNamespace, prompts: int) -> int:
    """Upstream's own count (`prepare_datasets`), which the learning-rate schedule is laid over."""
    per_episode = prompts * args.rollout.n_samples_per_prompt // args.train.batch_size
    steps = per_episode * args.train.num_episodes * args.train.max_epochs
    return min(steps, (args.train.max_rollouts or steps) * steps_per_rollout(args))


def steps_per_rollout(args: SimpleNamespace) -> int:
    samples = args.rollout.batch_size * args.rollout.n_samples_per_prompt
    return samples // args.train.batch_size * args.train.max_epochs


def rollouts(args: SimpleNamespace, prompts: int) -> int:
    rollouts = layout.rollouts(prompts, args.rollout.batch_size, args.train.num_episodes, args.train.async_enable)
    return min(rollouts, args.train.max_rollouts or rollouts)


def banner(
    args: SimpleNamespace, prompts: int | None, notes: list[str], evaluation: Sequence[tuple[str, str]] = ()
) -> str:
    """The whole block. `prompts` is the length of an episode, None where the data set does not tell it beforehand."""
    facts = _rpg_facts(args) if args.algo.objective == "rpg" else _baseline_facts(args)
    facts += [*_run_facts(args, prompts), *evaluation]
    width = max(len(name) for name, _ in facts)
    lines = [f"  {name:<{width}}  {value}" for name, value in facts] + [f"  note: {note}" for note in notes]
    rule = "-" * 100
    return "\n".join([rule, *lines, rule])


def _rpg_facts(args: SimpleNamespace) -> list[tuple[str, Any]]:
    rpg = args.rpg
    old = {
        "recompute": "recomputed by the actor after each rollout",
        "rollout": "vLLM's own log-probs of its samples (no actor forward)",
    }
    reference = "none (beta is 0)" if rpg.beta == 0 else _reference(args.ref)
    return [
        (
            "objective",
            f"RPG, {rpg.gradient_estimator} gradient estimator, importance weight per {rpg.importance_level}",
        ),
        ("divergence", f"{DIVERGENCES[rpg.divergence].label}, beta {rpg.beta:g}"),
        ("old policy", old[rpg.old_policy]),
        *(_asynchronous(args.train) if args.train.asynchronous else []),
        ("reference", reference),
        *_loss_facts(args),
    ]


def _asynchronous(train: SimpleNamespace) -> list[tuple[str, Any]]:
    size = train.async_queue_size
    ahead = f"up to {size} rollout{'s' if size > 1 else ''} ahead of training" if size else "when training asks"
    sync = "; replies go on under new weights" if train.partial_rollout_enable else ""
    return [("asynchronous", f"engines draw {ahead}, on devices of their own{sync}")]


def _reference(ref: SimpleNamespace) -> str:
    rule = RULES[ref.refresh]
    if not rule.holds_weights:
        return rule.describe(ref)
    return f"{ref.model_name_or_path or 'the start policy'}{rule.describe(ref)} (a reference model)"


def _baseline_facts(args: SimpleNamespace) -> list[tuple[str, Any]]:
    kl = args.algo.kl
    if args.ref.refresh == "rollout":
        placed = f"{kl.estimator} in the loss, coefficient {args.ref.kl_to_old:g}"
        reference = RULES["rollout"].describe(args.ref)
    elif kl.init_coef <= 0:
        placed, reference = "none", "none"
    elif kl.use_loss:
        placed, reference = f"{kl.estimator} in the loss, coefficient {kl.init_coef:g}", "the start policy, fixed"
    else:
        placed, reference = f"{kl.estimator} in the reward, coefficient {kl.init_coef:g}", "the start policy, fixed"
    return [
        (
            "objective",
            f"OpenRLHF's own {args.actor.policy_loss_type} loss, advantage estimator {args.algo.advantage.estimator}",
        ),
        ("KL", placed),
        ("old policy", "recomputed by the actor after each rollout"),
        ("reference", reference),
        *_loss_facts(args),
    ]


def _loss_facts(args: SimpleNamespace) -> list[tuple[str, Any]]:
    low, high = args.actor.eps_clip_low_high
    correction = args.algo.advantage
    facts = [
        ("clip", f"low {low:g}, high {high:g}, dual {args.actor.dual_clip or 'off'}"),
        ("baseline", BASELINES[args.algo.advantage.estimator]),
        ("aggregation", args.actor.loss_agg_mode),
    ]
    if correction.is_correction_level != "off":
        how = f"{correction.is_correction_mode} by {correction.is_correction_gating}, bounds"
        how += f" {correction.is_correction_threshold} per {correction.is_correction_level}"
        facts.append(("vLLM correction", how))
    return facts


def _adapters(lora: SimpleNamespace) -> str:
    if not lora.rank:
        return ""
    layers = " ".join(lora.target_modules) if isinstance(lora.target_modules, list) else lora.target_modules
    return f" with LoRA of rank {lora.rank}, alpha {lora.alpha:g} on {layers}"


def _run_facts(args: SimpleNamespace, prompts: int | None) -> list[tuple[str, Any]]:
    samples = args.rollout.batch_size * args.rollout.n_samples_per_prompt
    steps = steps_per_rollout(args)
    total = "unknown before the data set is loaded"
    if prompts is not None:
        total = f"{rollouts(args, prompts)} rollouts, {optimizer_steps(args, prompts)} optimizer steps"
        total += f" ({prompts} prompts x {args.train.num_episodes} episodes)"
    ranks = args.actor.num_nodes * args.actor.num_gpus_per_node
    sharing = ", colocated" if args.train.colocate_all else ""
    return [
        ("rollout", f"{args.rollout.batch_size} prompts x {args.rollout.n_samples_per_prompt} samples = {samples}"),
        ("steps per rollout", f"{steps} of {args.train.batch_size} samples"),
        ("tokens per step", f"at most {args.train.batch_size * args.data.max_len:,}, prompts included"),
        ("in all", total + (", fewer with dynamic filtering" if args.algo.dynamic_filtering_enable else "")),
        ("policy", args.actor.model_name_or_path + _adapters(args.ds.lora)),
        ("reward", ", ".join(args.reward.remote_url or [args.reward.model_name_or_path])),
        ("layout", f"actor ranks {ranks} (ZeRO-{args.ds.zero_stage}, {args.ds.param_dtype}), vLLM engines "
         f"{args.vllm.num_engines} x tensor parallel {args.vllm.tensor_parallel_size}{sharing}, on {args.platform}"),
        ("logs", args.logger.run_dir),
        ("model saved to", args.ckpt.output_dir),
    ]  # fmt: skip
