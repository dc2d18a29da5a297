"""Banner printed at the start of a run: objective, batch sizes, step counts and layout."""

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
RECOMPUTED = "recomputed by the actor after each rollout"


def banner(
    args: SimpleNamespace, prompts: int | None, notes: list[str], evaluation: Sequence[tuple[str, str]] = ()
) -> str:
    """Format the banner. `prompts`: prompts in an episode; None if unknown before the data set is loaded."""
    facts = _rpg_facts(args) if args.algo.objective == "rpg" else _baseline_facts(args)
    facts += [*_loss_facts(args), *_run_facts(args, prompts), *evaluation]
    width = max(len(name) for name, _ in facts)
    lines = [f"  {name:<{width}}  {value}" for name, value in facts] + [f"  note: {note}" for note in notes]
    rule = "-" * 100
    return "\n".join([rule, *lines, rule])


def _rpg_facts(args: SimpleNamespace) -> list[tuple[str, Any]]:
    rpg, train = args.rpg, args.train
    method = f"RPG, {rpg.gradient_estimator} gradient estimator, importance weight per {rpg.importance_level}"
    sampled = "vLLM's own log-probs of its samples (no actor forward)"
    facts = [("objective", method), ("divergence", f"{DIVERGENCES[rpg.divergence].label}, beta {rpg.beta:g}")]
    facts.append(("old policy", sampled if rpg.old_policy == "rollout" else RECOMPUTED))
    if train.asynchronous:
        size = train.async_queue_size
        ahead = f"up to {size} rollout{'s' if size > 1 else ''} ahead of training" if size else "on demand"
        sync = "; replies continue with new weights" if train.partial_rollout_enable else ""
        facts.append(("asynchronous", f"engines sample {ahead}, on their own devices{sync}"))
    return [*facts, ("reference", "none (beta is 0)" if rpg.beta == 0 else _reference(args.ref))]


def _reference(ref: SimpleNamespace) -> str:
    rule = RULES[ref.refresh]
    if not rule.holds_weights:
        return rule.describe(ref)
    return f"{ref.model_name_or_path or 'the start policy'}{rule.describe(ref)} (a reference model)"


def _baseline_facts(args: SimpleNamespace) -> list[tuple[str, Any]]:
    kl, loss, estimator = args.algo.kl, args.actor.policy_loss_type, args.algo.advantage.estimator
    coefficient, reference = kl.init_coef, "the start policy, fixed"
    if args.ref.refresh == "rollout":
        coefficient, reference = args.ref.kl_to_old, _reference(args.ref)
    in_loss = kl.use_loss or args.ref.refresh == "rollout"
    placed = f"{kl.estimator} in the {'loss' if in_loss else 'reward'}, coefficient {coefficient:g}"
    if args.ref.refresh != "rollout" and coefficient <= 0:
        placed = reference = "none"
    method = f"OpenRLHF's own {loss} loss, advantage estimator {estimator}"
    return [("objective", method), ("KL", placed), ("old policy", RECOMPUTED), ("reference", reference)]


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
    plan, rollout = layout.plan(args), args.rollout
    total = "unknown before the data set is loaded"
    if prompts is not None:
        total = f"{layout.rollouts(args, prompts)} rollouts, {layout.optimizer_steps(args, prompts)} optimizer steps"
        total += f" ({prompts} prompts x {args.train.num_episodes} episodes)"
    sharing = ", colocated" if args.train.colocate_all else ""
    return [
        ("rollout", f"{rollout.batch_size} prompts x {rollout.n_samples_per_prompt} samples = {plan.samples}"),
        ("steps per rollout", f"{plan.steps} of {args.train.batch_size} samples"),
        ("tokens per step", f"at most {args.train.batch_size * args.data.max_len:,}, prompts included"),
        ("total", total + (", fewer with dynamic filtering" if args.algo.dynamic_filtering_enable else "")),
        ("policy", args.actor.model_name_or_path + _adapters(args.ds.lora)),
        ("reward", ", ".join(args.reward.remote_url or [args.reward.model_name_or_path])),
        ("layout", f"actor ranks {plan.world} (ZeRO-{args.ds.zero_stage}, {args.ds.param_dtype}), vLLM engines "
         f"{args.vllm.num_engines} x tensor parallel {args.vllm.tensor_parallel_size}{sharing}, on {args.platform}"),
        ("logs", args.logger.run_dir),
        ("model saved to", args.ckpt.output_dir),
    ]  # fmt: skip
