"""The range of every numeric flag, and the names of every text flag that has a fixed set. A test walks the parser.

Rules that combine flags are in checks.py and its neighbours; both stand in front of a run and of `--dry_run` alike.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from rpg_openrlhf.errors import Refusal

INF = math.inf
# transformers.SchedulerType, which is slow to import; a test compares.
SCHEDULERS = (
    "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup", "inverse_sqrt",
    "reduce_lr_on_plateau", "cosine_with_min_lr", "cosine_warmup_with_min_lr", "warmup_stable_decay", "greedy",
)  # fmt: skip
NEED_MORE = {  # schedulers that need arguments for which OpenRLHF has no flag, or a metric
    "reduce_lr_on_plateau": "it needs a metric at every step",
    "warmup_stable_decay": "it needs a number of decay steps, for which OpenRLHF has no flag",
    "greedy": "it needs a metric at every step",
}


class Range(NamedTuple):
    """Allowed numbers; `open_low` and `open_high` leave the bound itself out; `also` lists values beside them."""

    low: float
    high: float = INF
    open_low: bool = False
    open_high: bool = False
    also: tuple[float, ...] = ()

    def holds(self, value: float) -> bool:
        if value in self.also:
            return True
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return above and below and (math.isfinite(value) or math.isinf(self.high))

    def __str__(self) -> str:
        if self.low == -INF:
            text = "a finite number" if self.high == INF else f"at most {self.high:g}"
        elif self.high == INF:
            text = f"above {self.low:g}" if self.open_low else f"at least {self.low:g}"
        elif not (self.open_low or self.open_high):
            text = f"between {self.low:g} and {self.high:g}"
        else:
            low = f"above {self.low:g}" if self.open_low else f"at least {self.low:g}"
            text = f"{low} and {'below' if self.open_high else 'at most'} {self.high:g}"
        return text + "".join(f", or {value:g}" for value in self.also)


COUNT, NATURAL, SIZE = Range(1), Range(0), Range(0, INF, True)
SHARE, FINITE = Range(0, 1), Range(-INF, INF)
RANGES = {
    **dict.fromkeys(
        (
            "actor.gradient_checkpointing_layers",
            "actor.muon.ns_steps",
            "actor.num_gpus_per_node",
            "actor.num_nodes",
            "ckpt.max_num",
            "critic.muon.ns_steps",
            "critic.num_gpus_per_node",
            "critic.num_nodes",
            "data.max_len",
            "data.max_samples",
            "ds.lora.alpha",
            "ds.ring_attn_head_stride",
            "ds.ring_attn_size",
            "ds.tensor_parallel_size",
            "ds.zpg",
            "eval.n_samples_per_prompt",
            "logger.logging_steps",
            "ref.interval",
            "ref.min_interval",
            "ref.num_gpus_per_node",
            "ref.num_nodes",
            "reward.num_gpus_per_node",
            "reward.num_nodes",
            "rollout.batch_size",
            "rollout.max_new_tokens",
            "rollout.max_tokens_per_gpu",
            "rollout.micro_batch_size",
            "rollout.n_samples_per_prompt",
            "rollout.vllm_generate_batch_size",
            "train.batch_size",
            "train.max_epochs",
            "train.max_rollouts",
            "train.max_tokens_per_gpu",
            "train.micro_batch_size",
            "train.num_episodes",
            "vllm.num_engines",
            "vllm.tensor_parallel_size",
            "algo.kl.horizon",
        ),
        COUNT,
    ),
    **dict.fromkeys(
        (
            "algo.dynamic_filtering_max_draws",
            "data.dataloader_num_workers",
            "data.max_images_per_prompt",
            "ds.lora.rank",
            "train.max_restarts",
            "train.seed",
            "actor.aux_loss_coef",
            "actor.adam.lr",
            "actor.adam.weight_decay",
            "actor.muon.lr",
            "critic.adam.lr",
            "critic.adam.weight_decay",
            "critic.muon.lr",
            "algo.kl.init_coef",
            "actor.entropy_coef",
            "eval.temperature",
            "rpg.beta",
            "actor.max_norm",
            "critic.max_norm",
            "reward.overlong_penalty_factor",
            "deadline.evaluate",
            "deadline.experience",
            "deadline.generate",
            "deadline.save",
            "deadline.start",
            "deadline.sync",
            "deadline.train",
        ),
        NATURAL,
    ),
    **dict.fromkeys(("eval.steps", "ckpt.save_steps"), Range(1, also=(-1,))),
    **dict.fromkeys(("actor.adam.betas", "critic.adam.betas", "ds.lora.dropout"), Range(0, 1, open_high=True)),
    **dict.fromkeys(("actor.muon.momentum", "critic.muon.momentum"), Range(0, 1, open_high=True)),
    **dict.fromkeys(
        (
            "actor.adam.eps",
            "critic.adam.eps",
            "algo.kl.target",
            "critic.value_clip",
            "ref.kl_target",
            "reward.overlong_buffer_len",
            "rollout.temperature",
        ),
        SIZE,
    ),
    **dict.fromkeys(("actor.lr_warmup_ratio", "critic.lr_warmup_ratio"), SHARE),
    **dict.fromkeys(("actor.min_lr_ratio", "critic.min_lr_ratio", "algo.advantage.gamma"), SHARE),
    **dict.fromkeys(("algo.advantage.lambd", "train.ema_beta"), SHARE),
    **dict.fromkeys(("rollout.top_p", "vllm.gpu_memory_utilization", "ref.mix"), Range(0, 1, open_low=True)),
    **dict.fromkeys(("actor.eps_clip", "actor.eps_clip_low_high"), Range(0, 1, open_low=True)),
    "actor.dual_clip": Range(1, INF, True),
    "ref.kl_decay": Range(0, 1, open_high=True),
    "reward.stop_properly_penalty_coef": Range(-INF, 1),
    "algo.dynamic_filtering_range": FINITE,
    "algo.advantage.is_correction_threshold": NATURAL,
    "reward.clip_range": FINITE,
    "critic.freezing_steps": Range(-1),
    "ckpt.max_mem": SIZE,  # GB, without end by default
    "ds.zero_stage": Range(0, 3),
    "train.async_queue_size": NATURAL,
    "local_rank": Range(-1),
}
MAY_BE_INFINITE = ("ckpt.max_mem",)
NAMES = {"actor.lr_scheduler": SCHEDULERS, "critic.lr_scheduler": SCHEDULERS}


def check_ranges(values: dict[str, Any]) -> None:
    """Refuse the first flag whose number is out of its range, or whose text is none of its names."""
    for name, allowed in RANGES.items():
        value = values[name]
        numbers = value if isinstance(value, list | tuple) else [value]
        for number in numbers:
            if number is None:
                continue
            if not allowed.holds(number) or (math.isinf(number) and name not in MAY_BE_INFINITE):
                shown = " ".join(map(str, numbers))
                raise Refusal(f"--{name} {shown}: must be {allowed}{_finite(number)}")
    for name, names in NAMES.items():
        if values[name] not in names:
            raise Refusal(f"--{name} {values[name]}: must be one of {', '.join(names)}")
        if values[name] in NEED_MORE:
            raise Refusal(f"--{name} {values[name]}: cannot be used, as {NEED_MORE[values[name]]}")


def _finite(number: float) -> str:
    return "" if math.isfinite(number) else ", and finite"
