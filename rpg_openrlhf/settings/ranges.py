"""Ranges of all numeric flags, and the learning-rate schedulers. A test checks that no flag of the parser is missing.

Rules that combine flags are in checks.py and its neighbours. A run and `--dry_run` apply both.
"""

from __future__ import annotations

import math

from rpg_openrlhf.settings import own_flags
from rpg_openrlhf.settings.run_settings import Settings

# The values of transformers.SchedulerType, which is slow to import; a test compares them.
SCHEDULERS = (
    "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup", "inverse_sqrt",
    "reduce_lr_on_plateau", "cosine_with_min_lr", "cosine_warmup_with_min_lr", "warmup_stable_decay", "greedy",
)  # fmt: skip
UNUSABLE_SCHEDULERS = {  # schedulers that OpenRLHF cannot run, and the reason
    "reduce_lr_on_plateau": "it needs a metric at every step",
    "warmup_stable_decay": "it needs a number of decay steps, for which OpenRLHF has no flag",
    "greedy": "it needs a metric at every step",
}
UPSTREAM_RANGES = (  # upstream's flags, by range
    (own_flags.COUNT, """
        actor.muon.ns_steps actor.num_gpus_per_node actor.num_nodes algo.kl.horizon ckpt.max_num critic.muon.ns_steps
        critic.num_gpus_per_node critic.num_nodes data.max_len data.max_samples ds.lora.alpha ds.ring_attn_head_stride
        ds.ring_attn_size ds.tensor_parallel_size ds.zpg eval.n_samples_per_prompt logger.logging_steps
        ref.num_gpus_per_node ref.num_nodes reward.num_gpus_per_node reward.num_nodes rollout.batch_size
        rollout.max_new_tokens rollout.max_tokens_per_gpu rollout.micro_batch_size rollout.n_samples_per_prompt
        rollout.vllm_generate_batch_size train.batch_size train.max_epochs train.max_tokens_per_gpu
        train.micro_batch_size train.num_episodes vllm.num_engines vllm.tensor_parallel_size"""),
    (own_flags.NATURAL, """
        actor.adam.lr actor.adam.weight_decay actor.aux_loss_coef actor.entropy_coef actor.max_norm actor.muon.lr
        algo.advantage.is_correction_threshold algo.kl.init_coef critic.adam.lr critic.adam.weight_decay
        critic.max_norm critic.muon.lr data.dataloader_num_workers data.max_images_per_prompt ds.lora.rank
        eval.temperature reward.overlong_penalty_factor train.async_queue_size train.seed"""),
    (own_flags.POSITIVE, """
        actor.adam.eps algo.kl.target ckpt.max_mem critic.adam.eps critic.value_clip reward.overlong_buffer_len
        rollout.temperature"""),
    (own_flags.SHARE, """
        actor.lr_warmup_ratio actor.min_lr_ratio algo.advantage.gamma algo.advantage.lambd critic.lr_warmup_ratio
        critic.min_lr_ratio train.ema_beta"""),
    (own_flags.DECAY, "actor.adam.betas actor.muon.momentum critic.adam.betas critic.muon.momentum ds.lora.dropout"),
    (own_flags.FRACTION, "actor.eps_clip actor.eps_clip_low_high rollout.top_p vllm.gpu_memory_utilization"),
    (own_flags.COUNT_OR_OFF, "ckpt.save_steps eval.steps"),
    (own_flags.NOT_BELOW_MINUS_1, "critic.freezing_steps local_rank"),
    (own_flags.FINITE, "algo.dynamic_filtering_range reward.clip_range"),
    (own_flags.ABOVE_1, "actor.dual_clip"),
    (own_flags.NOT_ABOVE_1, "reward.stop_properly_penalty_coef"),
    (own_flags.STAGE, "ds.zero_stage"),
)  # fmt: skip
RANGES = {name: allowed for allowed, names in UPSTREAM_RANGES for name in names.split()}
RANGES |= {flag.name: flag.allowed for flag in own_flags.FLAGS if isinstance(flag.allowed, own_flags.Range)}
MAY_BE_INFINITE = ("ckpt.max_mem",)  # GB; infinite by default


def out_of_range(s: Settings) -> str | None:
    """Refuse the first number out of its range, and a scheduler that is unknown or cannot be used."""
    for name, allowed in RANGES.items():
        value = s.flags[name]
        numbers = value if isinstance(value, list | tuple) else [value]
        for number in numbers:
            if number is None or (allowed.holds(number) and (math.isfinite(number) or name in MAY_BE_INFINITE)):
                continue
            finite = "" if math.isfinite(number) else ", and finite"
            return f"--{name} {' '.join(map(str, numbers))}: must be {allowed.says}{finite}"
    for name in ("actor.lr_scheduler", "critic.lr_scheduler"):
        if s.flags[name] not in SCHEDULERS:
            return f"--{name} {s.flags[name]}: must be one of {', '.join(SCHEDULERS)}"
        if s.flags[name] in UNUSABLE_SCHEDULERS:
            return f"--{name} {s.flags[name]}: cannot be used, as {UNUSABLE_SCHEDULERS[s.flags[name]]}"
    return None
