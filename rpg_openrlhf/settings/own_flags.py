"""Flags that this project adds to OpenRLHF's, and the ranges of numbers.

The YAML key, the dotted flag and the attribute path are the same words: `--rpg.beta` is `args.rpg.beta` and
`rpg: {beta: ...}` in a layer. A flag is defined once, in FLAGS: the parser, --help, docs/flags.md and the range check
are derived from it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from rpg_openrlhf.objectives.divergences import DIVERGENCES
from rpg_openrlhf.reference.schedule import RULES


class Range(NamedTuple):
    says: str
    holds: Callable[[float], bool]  # False for NaN; check_ranges refuses infinity


COUNT = Range("at least 1", lambda x: x >= 1)
COUNT_OR_OFF = Range("at least 1, or -1", lambda x: x >= 1 or x == -1)
NATURAL = Range("at least 0", lambda x: x >= 0)
POSITIVE = Range("above 0", lambda x: x > 0)
ABOVE_1 = Range("above 1", lambda x: x > 1)
NOT_BELOW_MINUS_1 = Range("at least -1", lambda x: x >= -1)
NOT_ABOVE_1 = Range("at most 1", lambda x: x <= 1)
SHARE = Range("between 0 and 1", lambda x: 0 <= x <= 1)
DECAY = Range("at least 0 and below 1", lambda x: 0 <= x < 1)
FRACTION = Range("above 0 and at most 1", lambda x: 0 < x <= 1)
STAGE = Range("between 0 and 3", lambda x: 0 <= x <= 3)
FINITE = Range("a finite number", math.isfinite)


class Flag(NamedTuple):
    name: str
    default: Any
    type: type
    allowed: Range | tuple[str, ...] | None  # range of a number, or choices of a text
    sentence: str

    @property
    def choices(self) -> tuple[str, ...] | None:
        return None if isinstance(self.allowed, Range) else self.allowed


# fmt: off
FLAGS = (
    Flag("algo.objective", "rpg", str, ("rpg", "openrlhf"),
        "rpg: this package's losses; openrlhf: OpenRLHF's own losses, unchanged, for the baselines."),
    Flag("algo.dynamic_filtering_max_draws", 20, int, NATURAL,
        "Dynamic filtering: end the run with an error if this many times a rollout's prompts do not fill it; 0: no "
        "limit."),
    Flag("actor.chunked_head", "auto", str, ("auto", "on", "off"),
        "Log-probs and entropy without whole logits. auto: if the model allows it; on: an error if it does not."),
    Flag("actor.gradient_checkpointing_layers", None, int, COUNT,
        "Number of layers that recompute their activations; the others keep them. Unset: all layers."),

    # The choices are the entries of DIVERGENCES and RULES: a new entry there is a new choice.
    Flag("rpg.divergence", "urkl", str, tuple(DIVERGENCES),
        "Divergence: KL(ref || policy) (fkl), KL(policy || ref) (rkl), or an unnormalized form (ufkl, urkl)."),
    Flag("rpg.gradient_estimator", "reinforce", str, ("differentiable", "reinforce"),
        "differentiable: autograd through the surrogate; reinforce: -SG(weight x regularized advantage) x log-prob."),
    Flag("rpg.beta", 1e-4, float, NATURAL, "Strength of the KL term; 0 leaves it out."),
    Flag("rpg.importance_level", "token", str, ("token", "sequence", "prefix"),
        "Importance weight of a token (the paper's experiments), of the whole reply, or, for the KL, of its prefix."),
    Flag("rpg.reward_weight", "token", str, ("token", "sequence"),
        "With importance_level prefix, the reward's weight: that of the token (less noise) or of the reply (exact)."),
    Flag("rpg.clip_mode", "gate", str, ("gate", "truncate"),
        "Outside the clip bounds: no gradient (gate), or the bound replaces the weight (truncate; only reinforce)."),
    Flag("rpg.old_policy", "recompute", str, ("recompute", "rollout"),
        "Source of the old policy's log-probs: a forward pass of the actor (recompute) or vLLM (rollout)."),

    Flag("ref.refresh", "rollout", str, tuple(RULES),
        "When the reference moves to the policy: at every rollout (no reference model), at an interval, by KL, at "
        "every step (ema), or never."),
    Flag("ref.interval", None, int, COUNT,
        "Optimizer steps between two refreshes; with kl, the reference moves at whichever comes first."),
    Flag("ref.kl_target", None, float, POSITIVE,
        "The reference moves when a moving average of the mean token KL(policy || ref) exceeds this (kl)."),
    Flag("ref.kl_decay", None, float, DECAY,
        "Decay of that average per rollout; 0: only the last rollout counts; unset: 0.9."),
    Flag("ref.min_interval", None, int, COUNT,
        "Optimizer steps after the start or a refresh during which the KL cannot move the reference (kl)."),
    Flag("ref.mix", None, float, FRACTION,
        "ref <- mix x policy + (1 - mix) x ref, at a refresh (unset: 1, replace) or at every optimizer step (ema)."),
    Flag("ref.reset_optimizer", False, bool, None,
        "Clear the policy's optimizer moments at every refresh (interval, kl)."),
    Flag("ref.model_name_or_path", None, str, None,
        "The first reference; same architecture as the policy; unset: the start policy."),

    Flag("train.max_restarts", 3, int, NATURAL,
        "Number of restarts after processes died or hung, counted anew from every new checkpoint."),
    Flag("train.max_rollouts", None, int, COUNT,
        "End the run after this many rollouts, if its episodes do not end before (dynamic filtering shortens them)."),
    Flag("deadline.start", 3600, float, NATURAL,
        "Seconds from the launch to the first rollout, after which a run counts as hung; 0: no limit."),
    Flag("deadline.generate", 7200, float, NATURAL, "The same for sampling a rollout."),
    Flag("deadline.experience", 7200, float, NATURAL, "The same for computing the log-probs of its samples."),
    Flag("deadline.train", 7200, float, NATURAL, "The same for the optimizer steps of a rollout."),
    Flag("deadline.sync", 1800, float, NATURAL, "The same for sending the weights to the engines."),
    Flag("deadline.save", 3600, float, NATURAL, "The same for a checkpoint, or the final model."),
    Flag("deadline.evaluate", 14400, float, NATURAL, "The same for an evaluation."),
    Flag("ckpt.merge_lora", True, bool, None,
        "Save models with LoRA's adapters merged in, and the adapters in the folder adapter/; =false: only adapters."),
    Flag("logger.run_dir", None, str, None,
        "Folder of metrics.jsonl, the resolved config and the libraries' logs; unset: <ckpt.output_dir>/logs."),
    Flag("resume", "auto", str, None,
        "auto: resume from the last complete checkpoint in --ckpt.path, if there is one; never: an error if there is "
        "one; or the folder of a checkpoint."),
    Flag("platform", "auto", str, ("auto", "cpu", "cuda"),
        "Device of training and generation; auto: cuda if the launching machine has a CUDA device, else cpu."),
    Flag("trust_remote_code", False, bool, None,
        "Let models, tokenizers and data sets run Python code of their own repositories; otherwise they are refused."),
)
