"""Optimizers on the command line: what Schedule-Free AdamW goes with and makes of other flags; a limit of Muon."""

from __future__ import annotations

import importlib.util
from types import SimpleNamespace
from typing import Any

from rpg_openrlhf.errors import Refusal
from rpg_openrlhf.settings import layout

SCHEDULE_FREE = "schedulefree"
SCHEDULERS = ("constant_with_warmup", "constant")
CANNOT_STAND_BESIDE = {
    "ds.adam_offload": "DeepSpeed's CPU Adam is another optimizer",
    "ds.deepcompile": "it has not been tried with an optimizer that DeepSpeed does not know",
    "ds.use_universal_ckpt": "that format knows the states of Adam alone",
    "train.enable_ema": "it would average the training weights, and what is saved is an average already",
}


def fill_default(flags: dict[str, Any], explicit: set[str]) -> None:
    """The scheduler that goes with it, where the user names none: upstream's default is a cosine."""
    if flags["actor.optim"] == SCHEDULE_FREE and "actor.lr_scheduler" not in explicit:
        flags["actor.lr_scheduler"] = SCHEDULERS[0]


def check(flags: dict[str, Any]) -> None:
    """Refuse what cannot work, or would not act, with the chosen optimizer; a missing package first."""
    if flags["actor.optim"] == "muon":
        _check_muon(flags)
    if flags["actor.optim"] != SCHEDULE_FREE:
        return
    if importlib.util.find_spec(SCHEDULE_FREE) is None:
        raise Refusal("--actor.optim schedulefree: its package is not installed: pip install schedulefree==1.4.1")
    if flags["actor.lr_scheduler"] not in SCHEDULERS:
        raise Refusal(
            f"--actor.lr_scheduler {flags['actor.lr_scheduler']}: --actor.optim schedulefree averages instead of "
            "lowering the rate; use constant_with_warmup or constant"
        )
    for name, reason in CANNOT_STAND_BESIDE.items():
        if flags[name]:
            raise Refusal(f"--{name}: not with --actor.optim schedulefree: {reason}; leave it out")
    if flags["ref.refresh"] == "ema":
        raise Refusal(
            "--ref.refresh ema: mixes at every step, where --actor.optim schedulefree holds its training "
            "weights, not the average; use --ref.refresh interval --ref.interval 1 --ref.mix for a mix per rollout"
        )
    for value in flags["actor.adam.betas"]:
        if not 0 < value < 1:
            raise Refusal(
                f"--actor.adam.betas {' '.join(map(str, flags['actor.adam.betas']))}: with --actor.optim schedulefree "
                "both must lie between 0 and 1, as the first one mixes the average into the training weights"
            )


def _check_muon(flags: dict[str, Any]) -> None:
    """DeepSpeed 0.19.6 orthogonalizes each micro-batch's gradient under ZeRO-3, not their sum (its issue 8443)."""
    at_once = flags["train.micro_batch_size"] * layout.data_parallel_ranks(flags)
    if flags["ds.zero_stage"] == 3 and (flags["train.dynamic_batch_enable"] or at_once < flags["train.batch_size"]):
        raise Refusal(
            "--actor.optim muon: under --ds.zero_stage 3 DeepSpeed is wrong for steps of several micro-batches; "
            "use --ds.zero_stage 2"
        )


def settle(args: SimpleNamespace) -> None:
    """The warm-up becomes the optimizer's own (training/schedule_free.py says why), and the scheduler constant."""
    if args.actor.optim == SCHEDULE_FREE:
        if args.actor.lr_scheduler == "constant":
            args.actor.lr_warmup_ratio = 0.0
        args.actor.lr_scheduler = "constant"
