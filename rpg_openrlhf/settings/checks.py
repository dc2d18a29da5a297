"""Rules that refuse combinations of flags that cannot work or have no effect, before anything starts.

The rules of a table are tried in order. Ranges of single flags are in ranges.py; preflight/ checks files.
"""

from __future__ import annotations

import importlib.util
from operator import attrgetter

from rpg_openrlhf.settings import layout, machine
from rpg_openrlhf.settings.data_checks import DATA, EVALUATION, grades_by_default
from rpg_openrlhf.settings.objective_checks import BASELINE, RPG
from rpg_openrlhf.settings.ranges import out_of_range
from rpg_openrlhf.settings.rules import enforce, rule, where
from rpg_openrlhf.settings.run_names import WANDB
from rpg_openrlhf.settings.run_settings import Settings

GROUP_BASELINES = ("rloo", "reinforce_baseline", "group_norm", "dr_grpo")
BACKENDS = {"cuda": ("nccl",), "cpu": ("shm", "gloo", "nccl")}  # CPU: nccl, upstream's default, becomes shm
NOT_WITH_SCHEDULE_FREE = {
    "ds.adam_offload": "DeepSpeed's CPU Adam is another optimizer",
    "ds.deepcompile": "it has not been tried with an optimizer that DeepSpeed does not know",
    "ds.use_universal_ckpt": "that format contains only Adam's states",
    "train.enable_ema": "it would average the training weights, and the saved model is already an average",
}


def check(s: Settings) -> None:
    """Apply all rules; the first violated one is a Refusal. Ranges come first: the layout divides by these numbers."""
    combinations = [*WEIGHTS, RPG, BASELINE, *CORRECTION, *SAMPLES, *MODEL, *OPTIMIZER, *BATCHES, *DEVICES]
    enforce([ENGINES, out_of_range, *combinations, *EVALUATION, *WANDB, *DATA], s)


def _is_missing(package: str) -> bool:
    return importlib.util.find_spec(package) is None


def _backend(s: Settings) -> str | None:
    if s.vllm.sync_backend in BACKENDS[s.platform]:
        return None
    fix = "use shm (one host) or gloo" if s.platform == "cpu" else "leave it out: NCCL, or CUDA IPC on shared GPUs"
    return f"--vllm.sync_backend {s.vllm.sync_backend}: does not exist on the platform {s.platform}; {fix}"


def _bounds(s: Settings) -> str | None:
    bounds = s.algo.advantage.is_correction_threshold
    if len(bounds) > 2:
        return f"--algo.advantage.is_correction_threshold {' '.join(map(str, bounds))}: give HIGH, or LOW HIGH"
    return None


def _lower_bound(s: Settings) -> str | None:
    bounds, gating = s.algo.advantage.is_correction_threshold, s.algo.advantage.is_correction_gating
    if gating == "ratio" or len(bounds) < 2 or not bounds[0] > 0:
        return None
    return (
        f"--algo.advantage.is_correction_gating {gating}: is bounded from above only; give one "
        f"--algo.advantage.is_correction_threshold, not {' '.join(map(str, bounds))}"
    )


def _is_overridden_clip(s: Settings) -> bool:
    both, bounds = s.actor.eps_clip, s.actor.eps_clip_low_high
    upstream_default = 0.2  # a config.yaml of an older version contains it
    return "actor.eps_clip" in s.explicit and both != upstream_default and bounds and list(bounds) != [both, both]


def _overlong_buffer(s: Settings) -> str | None:
    buffer, budget = s.reward.overlong_buffer_len, s.rollout.max_new_tokens or s.data.max_len
    if buffer is not None and buffer > budget:
        return f"--reward.overlong_buffer_len {buffer}: must be at most the response budget {budget}"
    return None


def _rewards_truncation(s: Settings) -> bool:
    """True if a wrong, truncated reply gains: a coefficient >= 0 multiplies its reward, a negative one replaces it."""
    coefficient = s.reward.stop_properly_penalty_coef
    return coefficient is not None and coefficient >= 0 and grades_by_default(s)


def _chunked_head(s: Settings) -> str | None:
    for name in layout.splits_output_layer(s) if s.actor.chunked_head == "on" else ():
        value = attrgetter(name)(s)
        return f"--actor.chunked_head on: cannot be used with --{name} {value}, which computes whole logits; use auto"
    return None


def _is_muon_wrong(s: Settings) -> bool:
    """DeepSpeed 0.19.6 orthogonalizes each micro-batch's gradient under ZeRO-3, not their sum (its issue 8443)."""
    several = s.train.dynamic_batch_enable or s.train.micro_batch_size * s.plan.ranks < s.train.batch_size
    return s.actor.optim == "muon" and s.ds.zero_stage == 3 and several


def _not_with_schedule_free(s: Settings) -> str | None:
    for name, reason in NOT_WITH_SCHEDULE_FREE.items():
        if attrgetter(name)(s):
            return f"--{name}: cannot be used with --actor.optim schedulefree, because {reason}; leave it out"
    return None


def _divides(s: Settings) -> str | None:
    """Refuse batches that do not divide into ranks and micro-batches."""
    train, samples, ranks = s.train.batch_size, s.plan.samples, s.plan.ranks
    rollout = f"a rollout's {samples} samples ({s.rollout.batch_size} prompts x {s.rollout.n_samples_per_prompt})"
    dynamic = s.train.dynamic_batch_enable
    micro, micro_rollout = (1, 1) if dynamic else (s.train.micro_batch_size, s.rollout.micro_batch_size)
    if samples % train:
        return f"--train.batch_size {train}: does not divide {rollout}; choose a divisor of {samples}"
    if train % (micro * ranks):
        fix = f"a multiple of {ranks} first" if train % ranks else f"a micro-batch that divides {train // ranks}"
        return (
            f"--train.batch_size {train}: is not a multiple of --train.micro_batch_size {micro} x {ranks} ranks = "
            f"{micro * ranks}; choose {fix}"
        )
    if samples % (micro_rollout * ranks):
        return (
            f"--rollout.micro_batch_size {micro_rollout}: x {ranks} ranks = {micro_rollout * ranks} does not divide "
            f"{rollout}; choose a smaller one"
        )
    return None


def _shared_gpus(s: Settings) -> str | None:
    """Refuse two models that share GPUs but ask for different numbers of them."""
    pairs = []
    if layout.has_reference_group(s) and (s.train.colocate_all or s.train.colocate_actor_ref):
        pairs.append(("ref", "actor", "the reference model and the policy"))
    if s.algo.advantage.estimator == "gae" and s.train.colocate_critic_reward:
        pairs.append(("reward", "critic", "the reward model and the critic"))
    for *pair, models in pairs:
        for leaf in ("num_nodes", "num_gpus_per_node"):
            first, second = (f"{model}.{leaf}" for model in pair)
            first_value, second_value = attrgetter(first, second)(s)
            if first_value != second_value:
                return (
                    f"--{first} {first_value}: differs from --{second} {second_value}, but {models} share their GPUs; "
                    f"give --{first} {second_value}"
                )
    return None


def _gpus(s: Settings) -> str | None:
    memory, in_a_cluster = machine.gpu_memory_gib(), machine.in_a_ray_cluster()
    if in_a_cluster:
        return None
    if not (memory or s.dry_run):
        return (
            "--platform cuda: no CUDA device is visible on this machine; use --platform cpu, or a Ray cluster that "
            "has GPUs"
        )
    if memory and layout.gpus_needed(s) > len(memory):
        return (
            f"--actor.num_gpus_per_node {s.actor.num_gpus_per_node}: the run asks for {layout.gpus_needed(s)} GPUs "
            f"(actor, vLLM engines and other models), this machine has {len(memory)}; ask for fewer, "
            "--train.colocate_all, or a Ray cluster that has them"
        )
    return None


# fmt: off
ENGINES = rule(lambda s: s.vllm.num_engines is None,
               "--vllm.num_engines is missing: rollouts need vLLM; give at least 1")
WEIGHTS = (  # weights that engines cannot load, and transports that do not exist
    where(lambda s: s.ds.load_in_4bit,
        rule(lambda s: not s.ds.lora.rank,
             "--ds.load_in_4bit: 4-bit weights cannot be trained; give --ds.lora.rank 32, or leave it out"),
        rule(lambda s: s.ds.param_dtype != "bf16",
             "--ds.param_dtype {ds.param_dtype}: with --ds.load_in_4bit OpenRLHF computes in bf16; set bf16"),
        rule(lambda s: s.ds.zero_stage == 3,
             "--ds.zero_stage 3: packed 4-bit weights cannot be sharded; set 2, or leave --ds.load_in_4bit out"),
        rule(lambda s: s.critic.model_name_or_path,
             "--critic.model_name_or_path: the critic would be packed to 4 bits too; leave one of the two out"),
        rule(lambda s: _is_missing("bitsandbytes"),
             "--ds.load_in_4bit: needs the package bitsandbytes; pip install bitsandbytes==0.50.2")),
    where(lambda s: s.ds.lora.rank,
        rule(lambda s: s.ds.tensor_parallel_size > 1,
             "--ds.tensor_parallel_size {ds.tensor_parallel_size}: adapters are not merged over split weights; set 1, "
             "or leave --ds.lora.rank out"),
        rule(lambda s: "lm_head" in (s.ds.lora.target_modules or ()),
             "--ds.lora.target_modules lm_head: an adapter on the output layer is not merged into the engines' tied "
             "weights, and needs whole logits; leave it out"),
        rule(lambda s: s.ref.model_name_or_path,
             "--ref.model_name_or_path {ref.model_name_or_path}: with --ds.lora.rank the reference is the base model "
             "or an earlier adapter; leave it out")),
    rule(lambda s: s.vllm.sync_with_ray,
         "--vllm.sync_with_ray: Ray's collectives are not supported as a transport of weights; leave it out"),
    _backend,
)
CORRECTION = (
    _bounds,
    where(lambda s: s.algo.advantage.is_correction_level != "off",
        rule(lambda s: s.algo.advantage.is_correction_level == "token" and s.algo.objective == "rpg"
             and s.rpg.importance_level == "sequence",
             "--algo.advantage.is_correction_level token: with --rpg.importance_level sequence every token's share of "
             "the loss has the gradient of the whole reply; use --algo.advantage.is_correction_level seq"),
        rule(lambda s: s.algo.advantage.is_correction_mode == "clip"
             and (s.algo.advantage.is_correction_level == "seq" or s.algo.advantage.is_correction_gating != "ratio"),
             "--algo.advantage.is_correction_mode clip: only a token's ratio can be clipped; use "
             "--algo.advantage.is_correction_level token with --algo.advantage.is_correction_gating ratio, or mode "
             "mask"),
        _lower_bound),
    rule(_is_overridden_clip,
         "--actor.eps_clip {actor.eps_clip}: --actor.eps_clip_low_high {actor.eps_clip_low_high[0]} "
         "{actor.eps_clip_low_high[1]} overrides it; give --actor.eps_clip_low_high {actor.eps_clip} "
         "{actor.eps_clip}"),
)
SAMPLES = (
    rule(lambda s: s.algo.advantage.estimator in GROUP_BASELINES and s.rollout.n_samples_per_prompt < 2,
         "--rollout.n_samples_per_prompt {rollout.n_samples_per_prompt}: with the group baseline "
         "{algo.advantage.estimator} every advantage would be 0; give at least 2"),
    rule(lambda s: (s.rollout.max_new_tokens or 0) >= s.data.max_len,
         "--rollout.max_new_tokens {rollout.max_new_tokens}: leaves no room for a prompt in --data.max_len "
         "{data.max_len}; lower it"),
    _overlong_buffer,
    rule(_rewards_truncation,
         "--reward.stop_properly_penalty_coef {reward.stop_properly_penalty_coef}: multiplies the reward of a "
         "truncated reply, and so raises the -1 of a wrong one; give a negative number instead, such as -1"),
    where(lambda s: s.algo.dynamic_filtering_enable,
        rule(lambda s: not s.algo.dynamic_filtering_range[0] < s.algo.dynamic_filtering_range[1],
             "--algo.dynamic_filtering_range {algo.dynamic_filtering_range[0]} {algo.dynamic_filtering_range[1]}: the "
             "first bound must be below the second"),
        rule(lambda s: grades_by_default(s)
             and (s.algo.dynamic_filtering_range[0] >= 1 or s.algo.dynamic_filtering_range[1] <= 0),
             "--algo.dynamic_filtering_range {algo.dynamic_filtering_range[0]} {algo.dynamic_filtering_range[1]}: no "
             "group passes, as its mean score lies between 0 and 1; give bounds such as 0 1"),
        rule(lambda s: s.rollout.n_samples_per_prompt < 2,
             "--rollout.n_samples_per_prompt {rollout.n_samples_per_prompt}: --algo.dynamic_filtering_enable needs at "
             "least 2"),
        rule(lambda s: not (s.reward.remote_url or s.train.agent_func_path),
             "--algo.dynamic_filtering_enable: needs scores, which --reward.model_name_or_path does not give; use "
             "--reward.remote_url")),
)
MODEL = (
    rule(lambda s: s.platform != "cpu" and "ds.attn_implementation" in s.explicit
         and s.ds.attn_implementation == machine.FLASH_ATTENTION and not machine.has_flash_attn(),
         "--ds.attn_implementation {ds.attn_implementation}: the package flash-attn is not installed "
         "(docs/scaling.md); install it, or leave the flag out to use sdpa"),
    _chunked_head,
    where(lambda s: s.actor.gradient_checkpointing_layers is not None,
        rule(lambda s: not s.actor.gradient_checkpointing_enable,
             "--actor.gradient_checkpointing_layers {actor.gradient_checkpointing_layers}: has no effect without "
             "--actor.gradient_checkpointing_enable; give it, or leave this out"),
        rule(lambda s: s.ds.deepcompile,
             "--actor.gradient_checkpointing_layers {actor.gradient_checkpointing_layers}: cannot be used with "
             "--ds.deepcompile, which chooses layers itself; leave one of them out")),
)
OPTIMIZER = (
    rule(_is_muon_wrong,
         "--actor.optim muon: DeepSpeed computes a wrong step for several micro-batches under --ds.zero_stage 3; use "
         "--ds.zero_stage 2"),
    where(lambda s: s.actor.optim == "schedulefree",
        rule(lambda s: _is_missing("schedulefree"),
             "--actor.optim schedulefree: its package is not installed: pip install schedulefree==1.4.1"),
        rule(lambda s: s.actor.lr_scheduler not in ("constant_with_warmup", "constant"),
             "--actor.lr_scheduler {actor.lr_scheduler}: --actor.optim schedulefree averages instead of lowering the "
             "rate; use constant_with_warmup or constant"),
        _not_with_schedule_free,
        rule(lambda s: s.ref.refresh == "ema",
             "--ref.refresh ema: mixes at every step, at which --actor.optim schedulefree has its training weights, "
             "not the average; use --ref.refresh interval --ref.interval 1 --ref.mix for a mix per rollout"),
        rule(lambda s: not all(0 < beta < 1 for beta in s.actor.adam.betas),
             "--actor.adam.betas {actor.adam.betas[0]} {actor.adam.betas[1]}: with --actor.optim schedulefree both "
             "must lie between 0 and 1, as the first one mixes the average into the training weights")),
)
BATCHES = (
    rule(lambda s: s.plan.world % s.plan.sharing,
         "--actor.num_gpus_per_node {actor.num_gpus_per_node}: {plan.world} GPUs do not split into groups of "
         "{plan.sharing} (--ds.ring_attn_size x --ds.tensor_parallel_size)"),
    _divides,
    rule(lambda s: s.rollout.vllm_generate_batch_size not in (None, s.rollout.batch_size)
         and not layout.is_upstreams_async(s),
         "--rollout.vllm_generate_batch_size {rollout.vllm_generate_batch_size}: must be --rollout.batch_size "
         "{rollout.batch_size} without --train.async_enable; leave it out"),
)
DEVICES = (
    rule(lambda s: s.train.colocate_all and not s.train.async_enable and s.plan.world != s.plan.engine_gpus,
         "--vllm.num_engines {vllm.num_engines}: x --vllm.tensor_parallel_size {vllm.tensor_parallel_size} = "
         "{plan.engine_gpus} GPUs, but --train.colocate_all shares the actor's {plan.world}; make them equal"),
    _shared_gpus,
    rule(lambda s: s.ds.param_dtype == "fp16",
         "--ds.param_dtype fp16: vLLM's engines are built in bf16 and take no other weights; use bf16"),
    where(lambda s: s.platform == "cpu",
        rule(lambda s: s.ds.ring_attn_size > 1,
             "--ds.ring_attn_size {ds.ring_attn_size}: needs CUDA; leave it at 1 on the CPU platform"),
        rule(lambda s: s.ds.tensor_parallel_size > 1,
             "--ds.tensor_parallel_size {ds.tensor_parallel_size}: needs CUDA; leave it at 1 on the CPU platform")),
    where(lambda s: s.platform != "cpu",
        rule(lambda s: s.ds.param_dtype == "fp32",
             "--ds.param_dtype fp32: is for the CPU platform; use bf16 on CUDA"),
        rule(lambda s: s.ds.ring_attn_size > 1 and not machine.has_flash_attn(),
             "--ds.ring_attn_size {ds.ring_attn_size}: ring attention needs the packages flash-attn and "
             "ring-flash-attn, which are not installed here (docs/scaling.md); install them, or set 1"),
        _gpus),
)
