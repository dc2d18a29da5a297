"""Rules of each objective: what RPG refuses, and what upstream's objectives refuse."""

from __future__ import annotations

from operator import attrgetter

from rpg_openrlhf.objectives.divergences import DIVERGENCES
from rpg_openrlhf.settings import layout
from rpg_openrlhf.settings.reference_checks import OURS, REFERENCE
from rpg_openrlhf.settings.rules import rule, where
from rpg_openrlhf.settings.run_settings import Settings


def _kl_and_critic_flags(s: Settings) -> str | None:
    for name in sorted(name for name in s.explicit if name.startswith(("algo.kl.", "critic."))):
        value = attrgetter(name)(s)
        if name.startswith("algo.kl."):
            return (
                f"--{name} {value}: RPG's KL is in its loss and its strength is --rpg.beta, so this would be a second "
                "KL; leave it out, or use --algo.objective openrlhf"
            )
        if value is not None:
            return f"--{name} {value}: RPG has no critic; leave it out, or use --algo.objective openrlhf"
    return None


def _rpg_flags(s: Settings) -> str | None:
    for name in sorted(s.explicit):
        if name.startswith("rpg.") or (name in OURS and name != "ref.refresh"):
            value = attrgetter(name)(s)
            return (
                f"--{name} {value}: has no effect with --algo.objective openrlhf; leave it out, or use "
                "--algo.objective rpg"
            )
    return None


def _kl_cannot_act(s: Settings) -> bool:
    moves_every_rollout = s.ref.refresh == "rollout" or (s.ref.interval == 1 and s.ref.mix in (None, 1))
    return s.rpg.beta > 0 and layout.is_on_policy(s) and moves_every_rollout and s.rpg.old_policy == "recompute"


# fmt: off
RPG = where(lambda s: s.algo.objective == "rpg",
    _kl_and_critic_flags,
    rule(lambda s: s.algo.advantage.estimator == "gae",
         "--algo.advantage.estimator gae: RPG has no critic; use dr_grpo (group mean), flash_reinforce (batch mean), "
         "rloo or none"),
    rule(lambda s: s.actor.policy_loss_type != "ppo",
         "--actor.policy_loss_type {actor.policy_loss_type}: has no effect on RPG's loss; use "
         "--rpg.importance_level sequence"),
    rule(lambda s: s.rpg.clip_mode == "truncate" and s.rpg.gradient_estimator != "reinforce",
         "--rpg.clip_mode truncate: needs --rpg.gradient_estimator reinforce; with differentiable a truncated "
         "weight has no gradient, as with --rpg.clip_mode gate"),
    rule(lambda s: s.rpg.importance_level == "prefix" and not DIVERGENCES[s.rpg.divergence].has_chain_rule,
         "--rpg.importance_level prefix: needs a divergence with a chain rule, which {rpg.divergence} does not have; "
         "use --rpg.importance_level sequence"),
    rule(lambda s: s.rpg.reward_weight == "sequence" and s.rpg.importance_level != "prefix",
         "--rpg.reward_weight sequence: cannot act with --rpg.importance_level {rpg.importance_level}; use "
         "--rpg.importance_level prefix"),
    rule(lambda s: s.train.async_enable and s.rpg.old_policy != "rollout",
         "--rpg.old_policy {rpg.old_policy}: with --train.async_enable the policy that recomputes is newer than the "
         "one that sampled; use --rpg.old_policy rollout"),
    rule(lambda s: s.train.partial_rollout_enable and not s.train.async_queue_size,
         "--train.partial_rollout_enable: cannot act with --train.async_queue_size 0, where no reply is under way "
         "when weights are sent; set 1 or more"),
    rule(lambda s: s.data.max_images_per_prompt > 0,
         "--data.max_images_per_prompt {data.max_images_per_prompt}: images are not supported with --algo.objective "
         "rpg; set 0"),
    rule(lambda s: s.rpg.old_policy == "rollout" and s.algo.advantage.is_correction_level != "off",
         "--algo.advantage.is_correction_level {algo.advantage.is_correction_level}: with --rpg.old_policy rollout "
         "the importance weight already corrects for vLLM; set off, or use --rpg.old_policy recompute"),
    *REFERENCE,
    rule(_kl_cannot_act,
         "--rpg.beta {rpg.beta}: the KL cannot act, as with one optimizer step per rollout (--train.batch_size "
         "{plan.samples}) the policy is its own reference on every sample; set --rpg.beta 0, a smaller "
         "--train.batch_size, or --ref.refresh never"),
)
BASELINE = where(lambda s: s.algo.objective != "rpg",
    _rpg_flags,
    rule(lambda s: s.ref.refresh not in ("never", "rollout"),
         "--ref.refresh {ref.refresh}: with --algo.objective openrlhf the reference is fixed (never) or the policy "
         "that sampled (rollout)"),
    rule(lambda s: "ref.refresh" in s.explicit and not s.algo.kl.init_coef > 0,
         "--ref.refresh {ref.refresh}: no reference is used with --algo.kl.init_coef {algo.kl.init_coef:g}; leave it "
         "out, or give a coefficient"),
    rule(lambda s: s.ref.refresh == "rollout" and s.algo.kl.target is not None,
         "--algo.kl.target {algo.kl.target}: has no effect with --ref.refresh rollout, whose coefficient is fixed; "
         "leave it out"),
    rule(lambda s: s.ref.refresh == "rollout" and not s.algo.kl.use_loss,
         "--ref.refresh rollout: cannot act without a KL in the loss; give --algo.kl.use_loss, or leave it out"),
    rule(lambda s: s.algo.advantage.estimator == "none",
         "--algo.advantage.estimator none: is RPG's own; with --algo.objective openrlhf use reinforce"),
    rule(lambda s: s.algo.kl.use_loss and not s.algo.kl.init_coef > 0,
         "--algo.kl.use_loss: cannot act with --algo.kl.init_coef {algo.kl.init_coef}; give it a positive coefficient "
         "or leave it out"),
)
