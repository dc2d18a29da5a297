"""What we rely on in OpenRLHF 0.11.2, DeepSpeed and vLLM. Each failure names the seam and the file that leans on it.

Signatures are read from upstream's source, since the CPU platform replaces some of the functions at import.
"""

import ast
import asyncio
import importlib.metadata
import importlib.util
import inspect
import re
from functools import cache
from pathlib import Path
from types import SimpleNamespace as Namespace

import pytest
import torch

from tests import upstream

upstream.make_importable()

from openrlhf.cli import train_ppo_ray
from openrlhf.models import PolicyLoss
from openrlhf.trainer import ppo_trainer
from openrlhf.trainer.ppo_utils.experience import Experience
from openrlhf.trainer.ppo_utils.kl_controller import FixedKLController
from openrlhf.trainer.ray import launcher, ppo_actor, vllm_engine
from openrlhf.utils.agent import SingleTurnAgentExecutor
from openrlhf.utils.deepspeed import deepspeed_utils

from rpg_openrlhf import cpu_platform
from rpg_openrlhf.runs import checkpointing
from rpg_openrlhf.sampling import dynamic_sampling, engine_actor, generator, samples
from rpg_openrlhf.settings import memory
from rpg_openrlhf.training import (
    actors,
    chunked_head,
    column_actors,
    experience,
    measured_once,
    micro_batches,
    policy_loss,
    schedule_free,
    trainer,
)
from rpg_openrlhf.weight_sync import engine, policy, receiver

PACKAGE = Path(cpu_platform.__file__).parent
OURS = (
    actors, checkpointing, chunked_head, column_actors, dynamic_sampling, engine, engine_actor, experience, generator,
    measured_once, micro_batches, policy, policy_loss, receiver, samples, schedule_free, trainer,
)  # fmt: skip


def source(file: str) -> str:
    """The text of `package/path.py`, wherever the package is installed."""
    package, _, path = file.partition("/")
    return Path(importlib.util.find_spec(package).submodule_search_locations[0], path).read_text(encoding="utf-8")


@cache
def definition(file: str, name: str) -> ast.FunctionDef | ast.AsyncFunctionDef:
    """Function `name`, or method `Class.name`, in `file`."""
    scope = ast.parse(source(file)).body
    for part in name.split("."):
        found = [node for node in scope if getattr(node, "name", None) == part]
        assert found, f"{file} has no {name} any more"
        scope = found[-1].body
    return found[-1]


def calls(function: ast.AST, name: str) -> list[ast.Call]:
    return [node for node in ast.walk(function) if isinstance(node, ast.Call) and ast.unparse(node.func) == name]


def parameters(arguments: ast.arguments) -> str:
    """Names in order, with the marks of their kind and of a default."""
    positional = [*arguments.posonlyargs, *arguments.args]
    first_default = len(positional) - len(arguments.defaults)
    names = [a.arg + "=" * (i >= first_default) for i, a in enumerate(positional)]
    if arguments.vararg:
        names.append(f"*{arguments.vararg.arg}")
    elif arguments.kwonlyargs:
        names.append("*")
    names += [a.arg + "=" * (d is not None) for a, d in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)]
    if arguments.kwarg:
        names.append(f"**{arguments.kwarg.arg}")
    return " ".join(names)


MODELS = "actor_model_group critic_model_group reward_model_group"
ENGINE = "openrlhf/trainer/ray/vllm_engine.py"
MODEL = "openrlhf/models/actor.py"
PPO_ACTOR = "openrlhf/trainer/ray/ppo_actor.py"
PPO_TRAINER = "openrlhf/trainer/ppo_trainer.py"
MAKER = "openrlhf/trainer/ppo_utils/experience_maker.py"
STRATEGY = "openrlhf/utils/deepspeed/deepspeed.py"

SIGNATURES = [  # our file, upstream's file, function, its parameters (= marks a default)
    (
        "training/policy_loss.py",
        "openrlhf/models/loss.py",
        "PolicyLoss.__init__",
        "self clip_eps_low= clip_eps_high= dual_clip= token_level_loss= policy_loss_type= is_correction_level= "
        "is_correction_mode= is_correction_gating= is_correction_threshold=",
    ),
    (
        "training/policy_loss.py",
        "openrlhf/models/loss.py",
        "PolicyLoss.forward",
        "self log_probs old_log_probs advantages action_mask= rollout_log_probs= dp_size= batch_num_tokens= "
        "global_batch_size=",
    ),
    (
        "training/policy_loss.py",
        "openrlhf/models/loss.py",
        "aggregate_loss",
        "loss loss_mask token_level_loss= dp_size= batch_num_tokens= global_batch_size=",
    ),
    ("training/policy_loss.py", "openrlhf/models/utils.py", "masked_mean", "tensor mask dim="),
    ("training/policy_loss.py", STRATEGY, "DeepspeedStrategy.all_reduce", "self data op="),
    (
        "training/chunked_head.py",
        MODEL,
        "Actor.forward",
        "self sequences action_mask= attention_mask= return_output= allgather_logits= return_logprobs= "
        "ring_attn_group= packed_seq_lens= return_entropy= **mm_inputs",
    ),
    (
        "training/actors.py",
        PPO_ACTOR,
        "ActorPPOTrainer.__init__",
        "self strategy actor ema_model actor_optim actor_scheduler ema_beta= micro_train_batch_size= buffer_limit= "
        "buffer_cpu_offload= eps_clip= tokenizer= dataloader_pin_memory= vllm_engines= **kwargs",
    ),
    ("training/actors.py", PPO_ACTOR, "ActorPPOTrainer.training_step", "self experience kl_ctl step loss_batch_info="),
    ("training/actors.py", PPO_ACTOR, "ActorPPOTrainer.ppo_train", "self kl_ctl"),
    (
        "training/actors.py",
        PPO_ACTOR,
        "PolicyModelActor.init_model_from_pretrained",
        "self strategy pretrain max_steps= vllm_engines=",
    ),
    (
        "training/actors.py",
        "openrlhf/trainer/ray/launcher.py",
        "BaseModelActor.execute_batch",
        "self method_name all_data start_idx end_idx",
    ),
    (
        "training/experience.py",
        "openrlhf/trainer/ray/launcher.py",
        "RayActorGroup.async_run_method_batch",
        "self method_name **kwargs",
    ),
    (
        "training/experience.py",
        "openrlhf/trainer/ray/launcher.py",
        "RayActorGroup.async_run_method",
        "self method_name *args **kwargs",
    ),
    (
        "reference/weights.py",
        "deepspeed/runtime/utils.py",
        "all_gather_dp_groups",
        "groups_flat partitioned_param_groups dp_process_group start_alignment_factor allgather_bucket_size",
    ),
    (
        "training/trainer.py, training/micro_batches.py",
        MAKER,
        "RemoteExperienceMaker.__init__",
        f"self {MODELS} initial_model_group kl_controller strategy tokenizer **kwargs",
    ),
    ("training/experience.py", MAKER, "RemoteExperienceMaker.make_experience", "self samples_list"),
    (
        "training/experience.py",
        MAKER,
        "RemoteExperienceMaker._dispatch_forward",
        "self group sync_condition **kwargs",
    ),
    ("training/experience.py", MAKER, "RemoteExperienceMaker._flatten_results", "self refs duplicate_factor"),
    (
        "training/trainer.py",
        PPO_TRAINER,
        "PPOTrainer.__init__",
        f"self pretrain strategy {MODELS} reference_model_group vllm_engines **generate_kwargs",
    ),
    ("training/trainer.py", PPO_TRAINER, "BasePPOTrainer.train_step", "self rollout_samples global_step"),
    (
        "training/trainer.py",
        PPO_TRAINER,
        "BasePPOTrainer.save_logs_and_checkpoints",
        "self global_step logs_dict= client_states=",
    ),
    ("training/trainer.py", PPO_TRAINER, "PPOTrainer.evaluate", "self global_step **generate_kwargs"),
    ("training/trainer.py", PPO_TRAINER, "BasePPOTrainer.restore_best_checkpoint_state", "self checkpoint_states"),
    ("training/trainer.py", PPO_TRAINER, "PPOTrainer.get_max_steps", "self"),
    (
        "sampling/engine_actor.py",
        ENGINE,
        "RolloutRayActor.__init__",
        "self *args bundle_indices= agent_func_path= remote_rm_url= mm_pad_token_ids= **kwargs",
    ),
    (
        "sampling/engine_actor.py",
        ENGINE,
        "RolloutRayActor.generate",
        "self prompt_token_ids sampling_params multi_modal_data=",
    ),
    (
        "sampling/engine_actor.py",
        ENGINE,
        "RolloutRayActor.generate_responses",
        "self prompt label sampling_params max_length hf_tokenizer num_samples= images=",
    ),
    (
        "weight_sync/policy.py",
        PPO_ACTOR,
        "ActorPPOTrainer._init_vllm_sync_group",
        "self backend",
    ),
    ("weight_sync/policy.py", PPO_ACTOR, "ActorPPOTrainer.broadcast_to_vllm", "self"),
    (
        "check/engine.py",
        "openrlhf/trainer/ray/vllm_worker_wrap.py",
        "WorkerWrap.init_process_group",
        "self master_address master_port rank_offset world_size group_name backend= use_ray=",
    ),
    (
        "weight_sync/receiver.py",
        "vllm/model_executor/model_loader/reload/layerwise.py",
        "initialize_layerwise_reload",
        "model",
    ),
    (
        "cpu_platform.py",
        "openrlhf/utils/distributed_util.py",
        "stateless_init_process_group",
        "master_address master_port rank world_size device",
    ),
    ("cpu_platform.py", STRATEGY, "DeepspeedStrategy.get_ds_train_config", "self optim_dict= * max_norm="),
    ("cpu_platform.py", "openrlhf/utils/utils.py", "convert_to_torch_dtype", "param_dtype"),
    ("launch/install.py", "openrlhf/utils/utils.py", "get_strategy", "args"),
    ("launch/install.py", "openrlhf/cli/train_ppo_ray.py", "train", "args"),
    (
        "cpu_platform.py",
        "vllm/distributed/utils.py",
        "stateless_init_torch_distributed_process_group",
        "host port rank world_size backend group_name= return_store= listen_socket=",
    ),
    ("cpu_platform.py", "vllm/model_executor/layers/utils.py", "dispatch_cpu_unquantized_gemm", "layer remove_weight"),
]


def test_version():
    assert importlib.metadata.version("openrlhf") == "0.11.2", "read every seam below anew, then change this line"


@pytest.mark.parametrize(("ours", "file", "name", "expected"), SIGNATURES, ids=[row[2] for row in SIGNATURES])
def test_signature(ours, file, name, expected):
    found = parameters(definition(file, name).args)
    assert found == expected, f"{ours} relies on {file} {name}({expected})"


@pytest.mark.parametrize(("ours", "name"), [(row[0], row[2]) for row in SIGNATURES])
def test_the_file_that_relies_on_a_signature_names_it(ours, name):
    for file in ours.split(", "):
        words = set(re.findall(r"\w+", (PACKAGE / file).read_text(encoding="utf-8")))
        symbol = name.removesuffix(".__init__").rpartition(".")[2]
        assert symbol in words, f"{file} does not name {name}"


def test_policy_loss_has_five_results_of_which_the_loss_is_first():
    """training/policy_loss.py hands the last two through and replaces the second and third."""
    ones = torch.ones(1, 2)
    loss, clip_fraction, policy_kl, vllm_kl, filtered = PolicyLoss()(ones, ones, 3 * ones, ones)
    assert loss == -3, (
        "at importance weight one the surrogate is the advantage: training/policy_loss.py hands losses in as such"
    )
    assert (clip_fraction, policy_kl, vllm_kl, filtered) == (0, 0, None, None)


def test_training_step_calls_the_loss_once():
    """training/actors.py replaces self.actor_loss_fn; training/policy_loss.py takes mask and totals by keyword."""
    step = definition(PPO_ACTOR, "ActorPPOTrainer.training_step")
    (call,) = calls(step, "self.actor_loss_fn")
    assert [ast.unparse(a) for a in call.args] == ["action_log_probs", "old_action_log_probs", "advantages"]
    keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    assert keywords == {
        "action_mask": "experience.action_mask",
        "rollout_log_probs": "experience.rollout_log_probs",
        None: "loss_batch_info",
    }
    text = ast.unparse(step)
    assert "old_action_log_probs = experience.action_log_probs\n" in text
    assert "self.replay_buffer.dynamic_optimizer_step[step]" in text, "training/actors.py asks it where a step ends"
    assert "metrics['entropy_loss'] = entropy_loss.detach()" in text, "training/actors.py scales it"
    assert "weights['entropy_loss'] = 'token'" in text
    assert "'num_action_tokens': float(experience.action_mask.sum().item())" in text


def test_ppo_train_calls_training_step():
    train = definition(PPO_ACTOR, "ActorPPOTrainer.ppo_train")
    (call,) = calls(train, "self.training_step")
    assert [ast.unparse(a) for a in call.args] == ["experience", "kl_ctl", "step", "loss_batch_info"], "actors.py"


def test_policy_actor_builds_its_trainer_by_a_global_name():
    """training/actors.py rebinds ppo_actor.ActorPPOTrainer in the worker."""
    build = ppo_actor.PolicyModelActor.__ray_actor_class__.init_model_from_pretrained
    assert "ActorPPOTrainer" in build.__code__.co_names
    assert build.__globals__ is vars(ppo_actor)


def test_models_are_built_by_a_global_name():
    """training/actors.py rebinds ppo_actor.Actor and launcher.Actor in the worker."""
    for module, kind in ((ppo_actor, ppo_actor.PolicyModelActor), (launcher, launcher.ReferenceModelActor)):
        build = kind.__ray_actor_class__.init_model_from_pretrained
        assert "Actor" in build.__code__.co_names
        assert build.__globals__ is vars(module)


def test_what_an_actor_does_around_the_output_layer():
    """training/chunked_head.py: upstream's forward without an action mask returns the output with float32 logits."""
    forward = ast.unparse(definition(MODEL, "Actor.forward"))
    order = [
        "unpad_and_slice_tensor(sequences, attention_mask, ring_attn_group)",
        "rolled_sequences = torch.roll(sequences, shifts=-1, dims=1)",
        "output = self.model(sequences, attention_mask=foward_attention_mask, position_ids=position_ids, **mm_inputs)",
        "output['logits'] = output['logits'].to(torch.float32)",
        "if self.temperature != 1.0:\n        output['logits'].div_(self.temperature)",
        "setattr(output, 'entropy', entropy[:, :-1])",
        "if not return_action_log_probs and (not return_logprobs):\n        assert return_output",
        "return output\n",
        "action_log_probs = log_probs[:, -action_mask.shape[1]:] * action_mask.float()",
    ]
    places = [forward.find(part) for part in order]
    assert -1 not in places, order[places.index(-1)]
    assert places == sorted(places)
    unpad = ast.unparse(definition("openrlhf/models/ring_attn_utils.py", "unpad_and_slice_tensor"))
    assert "unpad_input(sequences.unsqueeze(-1), attention_mask)" in unpad, (
        "packed are the tokens of the mask, in order"
    )


def test_a_training_step_reads_nothing_of_the_output_but_entropy_and_aux_loss():
    """training/chunked_head.py leaves no logits in it, and entropy for action tokens alone."""
    step = ast.unparse(definition(PPO_ACTOR, "ActorPPOTrainer.training_step"))
    assert set(re.findall(r"\boutput\.(\w+)", step)) == {"entropy", "aux_loss"}
    assert len(re.findall(r"\boutput\b(?!\.)", step)) == 1, "where it is bound"
    assert "output.entropy[:, -experience.action_mask.shape[1]:], experience.action_mask" in step


def test_strategy_gives_deepspeed_no_optimizer():
    """schedule_free.py rebinds the strategy's name `deepspeed` and puts an optimizer where upstream has None."""
    build = definition(STRATEGY, "DeepspeedStrategy._ds_init_train_model")
    (call,) = calls(build, "deepspeed.initialize")
    given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    assert not call.args
    assert given["optimizer"] == "None"
    assert given["model_parameters"] == "model_parameters"
    assert given["config"] == "ds_config"
    assert "if kind == 'muon':" in ast.unparse(build), "any other name is AdamW there, with adam's weight decay"


def test_what_leaves_the_policy_actor():
    """schedule_free.py stands before each: a new way out must be looked at."""
    methods = {name for name in vars(ppo_actor.PolicyModelActor.__ray_actor_class__) if not name.startswith("_")}
    assert methods == {
        *("init_model_from_pretrained", "fit", "forward", "broadcast_to_vllm", "save_model", "save_checkpoint"),
        *("append", "get_checkpoint_states", "offload_states", "reload_states"),
    }


def test_deepspeeds_wrappers_end_a_step_by_the_methods_we_call():
    """schedule_free.py _rewrite_module calls what their own step() ends with."""
    folder = "deepspeed/runtime/"
    stage3 = ast.unparse(definition(folder + "zero/stage3.py", "DeepSpeedZeroOptimizer_Stage3.step"))
    for name in ("_partition_all_parameters()", "_reassign_or_swap_out_partitioned_parameters(", "_post_step("):
        assert name in stage3
    lends = definition(folder + "zero/stage3.py", "DeepSpeedZeroOptimizer_Stage3._set_fp32_optimizer_param_groups")
    assert parameters(lends.args) == "self"
    for file, name in (("zero/stage_1_and_2.py", "DeepSpeedZeroOptimizer"), ("bf16_optimizer.py", "BF16_Optimizer")):
        assert parameters(definition(folder + file, f"{name}.update_lp_params").args) == "self"


def test_the_package_keeps_what_we_keep_per_tensor():
    """schedule_free.py COUNTERS and `train_mode`."""
    assert importlib.metadata.version("schedulefree") == "1.4.1"
    tensor = torch.nn.Parameter(torch.ones(2))
    groups = [{"params": [tensor]}]
    optimizer = schedule_free.AdamWScheduleFree(groups)
    group = optimizer.param_groups[0]
    assert schedule_free.COUNTERS.items() <= group.items()
    settings = {"lr", "betas", "eps", "r", "warmup_steps", "weight_lr_power", "weight_decay", "foreach", "params"}
    assert set(group) - settings == {*schedule_free.COUNTERS, "train_mode", "scheduled_lr"}
    optimizer.train()
    tensor.grad = torch.ones(2)
    optimizer.step()
    assert set(optimizer.state[tensor]) == {"z", "exp_avg_sq"}


def test_experience_maker_dispatches_the_policy_by_its_group():
    """training/experience.py replaces the policy's forward pass and sends its result through _flatten_results."""
    make = definition(MAKER, "RemoteExperienceMaker.make_experience")
    groups = [ast.unparse(call.args[0]) for call in calls(make, "self._dispatch_forward")]
    assert groups.count("self.actor_model_group") == 1
    assert len(groups) == len(set(groups)) == 4
    results = [call for call in calls(make, "self._flatten_results") if "action_log_probs_ref" in ast.unparse(call)]
    assert ["action_log_probs_ref", "duplicate_factor"] in [[ast.unparse(a) for a in call.args] for call in results]
    uses = [node for node in ast.walk(make) if isinstance(node, ast.Name) and node.id == "action_log_probs_ref"]
    assert len(uses) == 2, "a result that is not a list of Ray references goes nowhere else"


def test_reference_log_probs_are_kept_for_a_kl_loss_alone():
    """training/trainer.py: the launcher therefore sets algo.kl.use_loss where a reference model is wanted."""
    make = definition(MAKER, "RemoteExperienceMaker.make_experience")
    assert "if not args.algo.kl.use_loss:\n            base_action_log_probs = None" in ast.unparse(make)
    step = ast.unparse(definition(PPO_ACTOR, "ActorPPOTrainer.training_step"))
    assert "if self.args.algo.kl.init_coef > 0:" in step, "without a coefficient upstream's own KL loss is zeros"


def test_reference_is_asked_as_the_policy_is():
    """training/experience.py PolicyAsReference replaces upstream's group and takes the arguments of the policy's."""
    make = definition(MAKER, "RemoteExperienceMaker.make_experience")
    asked = {
        ast.unparse(call.args[0]): ast.unparse(call.keywords[-1]) for call in calls(make, "self._dispatch_forward")
    }
    assert asked["self.initial_model_group"] == asked["self.actor_model_group"] == "**vlm_forward_kwargs"
    dispatch = ast.unparse(definition(MAKER, "RemoteExperienceMaker._dispatch_forward"))
    assert "group.async_run_method_batch(method_name='forward', **kwargs)" in dispatch
    assert "group.async_run_method(method_name='empty_cache')" in dispatch
    execute = ast.unparse(definition("openrlhf/trainer/ray/launcher.py", "BaseModelActor.execute_batch"))
    assert "getattr(self, method_name)" in execute, "training/actors.py execute_batch calls it with `forward`"
    both = [
        ast.unparse(definition("openrlhf/trainer/ray/ppo_actor.py", "PolicyModelActor.forward")),
        ast.unparse(definition("openrlhf/trainer/ray/launcher.py", "ReferenceModelActor.forward")),
    ]
    assert all("ring_attn_group=self.strategy.ring_attn_group" in text and "torch.no_grad()" in text for text in both)


def test_where_deepspeed_keeps_the_weights_in_use():
    """reference/weights.py reads and writes this rank's part of them and spreads it as a step does."""
    step12 = source("deepspeed/runtime/zero/stage_1_and_2.py")
    assert "bit16_partitions[partition_id].data.copy_(fp32_partition.data)" in step12
    update = ast.unparse(
        definition("deepspeed/runtime/zero/stage_1_and_2.py", "DeepSpeedZeroOptimizer.update_lp_params")
    )
    for name in (
        "self.parallel_partitioned_bit16_groups", "dist.get_rank(group=self.real_dp_process_group[i])",
        "groups_flat=self.bit16_groups_flat", "self.nccl_start_alignment_factor", "self.allgather_bucket_size",
    ):  # fmt: skip
        assert name in update
    step3 = source("deepspeed/runtime/zero/stage3.py")
    assert "self.persistent_parameters[0].all_gather(self.persistent_parameters)" in step3
    assert "def empty_partition_cache(self):" in step3
    assert "param.ds_tensor" in step3
    engine = source("deepspeed/runtime/engine.py")
    assert engine.count("self.global_steps += 1") == 1, "training/actors.py counts optimizer steps by it"
    offload = source("openrlhf/utils/deepspeed/deepspeed_utils.py")
    assert "# OffloadStateTypeEnum.lp_params," in offload, "a sleeping policy keeps the weights that are copied"


def maker(estimator: str, kl_coefficient: float) -> experience.RPGExperienceMaker:
    """Ours, with what compute_advantages_and_returns reads: two samples a prompt, no length penalty, no clip."""
    args = Namespace(
        algo=Namespace(advantage=Namespace(estimator=estimator, gamma=1.0, lambd=1.0, no_std_norm=False)),
        rollout=Namespace(n_samples_per_prompt=2),
        reward=Namespace(clip_range=None),
    )
    args.algo.kl = Namespace(use_loss=False)
    groups = [None] * 4
    return experience.RPGExperienceMaker(*groups, FixedKLController(kl_coefficient), Namespace(args=args), None)


def advantages(estimator: str, kl_coefficient: float = 0.0) -> list[list[float]]:
    """Of four samples of two prompts, out of order, with a KL of one a token; masked tokens as None."""
    masks = torch.tensor([[[1, 1, 1], [1, 1, 0]], [[0, 1, 1], [0, 1, 0]]])
    rewards = torch.tensor([[1.0, -1.0], [2.0, 5.0]])
    experiences = [
        Experience(action_mask=mask, rewards=reward, kl=torch.ones(2, 3), index=index, info={})
        for mask, reward, index in zip(masks, rewards, [[3, 0], [2, 1]], strict=True)
    ]
    done = maker(estimator, kl_coefficient).compute_advantages_and_returns(experiences)
    return [
        [value if valid else None for value, valid in zip(row, mask, strict=True)]
        for experience in done
        for row, mask in zip(experience.advantages.tolist(), experience.action_mask.tolist(), strict=True)
    ]


def test_no_baseline_spreads_the_reward_as_it_is():
    """training/experience.py: baselines and normalization follow args, the spread the maker's own attribute."""
    assert advantages("none") == [[1, 1, 1], [-1, -1, None], [None, 2, 2], [None, 5, None]]
    assert advantages("none", kl_coefficient=0.5)[0] == [-0.5, 0, 0.5], "trainer.py sets the coefficient to zero"
    assert advantages("dr_grpo") == [[-0.5] * 3, [-3, -3, None], [None, 0.5, 0.5], [None, 3, None]]
    assert advantages("reinforce") != advantages("none"), "upstream's own plain estimator normalizes"


def test_engines_are_made_with_the_arguments_we_override():
    """launch/install.py engine_overrides: upstream hard-codes these, and looks the class up when it makes engines."""
    create = definition(ENGINE, "create_vllm_engines")
    (call,) = calls(
        create,
        "RolloutRayActor.options(num_cpus=num_gpus, num_gpus=num_gpus, "
        "scheduling_strategy=scheduling_strategy).remote",
    )
    assert ast.unparse(call).endswith("remote(**actor_kwargs)")
    (arguments,) = [
        {
            ast.literal_eval(key): ast.unparse(value)
            for key, value in zip(node.value.keys, node.value.values, strict=True)
        }
        for node in ast.walk(create)
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "actor_kwargs"
    ]
    assert arguments["worker_extension_cls"] == "'openrlhf.trainer.ray.vllm_worker_wrap.WorkerWrap'"
    assert arguments["dtype"] == "'bfloat16'"
    assert arguments["trust_remote_code"] == "True"
    assert arguments["full_determinism"] == "full_determinism", "sampling/engine_actor.py reads it"
    assert arguments["seed"] == "seed + i", "sampling/engine_actor.py draws from it"
    assert "logprobs_mode" not in arguments
    assert "RolloutRayActor" in vllm_engine.create_vllm_engines.__code__.co_names
    assert vllm_engine.create_vllm_engines.__globals__ is vars(vllm_engine)


def test_rollout_actor_keeps_the_engines_arguments():
    """sampling/engine_actor.py reads self.kwargs["seed"] and self.kwargs.get("logprobs_mode")."""
    build = ast.unparse(definition(ENGINE, "RolloutRayActor.__init__"))
    assert "self.kwargs = kwargs" in build
    assert "SingleTurnAgentExecutor(remote_rm_url)" in build


class Engine:
    """One answer of two tokens, with log-probs whether asked for or not."""

    async def generate(self, prompt_token_ids, sampling_params, multi_modal_data=None):
        log_probs = [{5: Namespace(logprob=-0.5)}, {6: Namespace(logprob=-0.25)}]
        return Namespace(outputs=[Namespace(token_ids=[5, 6], finish_reason="stop", logprobs=log_probs)])


@pytest.mark.parametrize(("asked", "expected"), [(None, None), (1, [0.0, 0.0, -0.5, -0.25])])
def test_executor_keeps_log_probs_iff_they_were_asked_for(asked, expected):
    """sampling/engine_actor.py asks by sampling_params.logprobs."""
    execution = SingleTurnAgentExecutor().execute(
        prompt="1+",
        label="2",
        sampling_params=Namespace(logprobs=asked, max_tokens=4),
        max_length=16,
        hf_tokenizer=lambda **_: {"input_ids": torch.tensor([[1, 2]])},
        llm_engine=Engine(),
    )
    assert asyncio.run(execution)["rollout_log_probs"] == expected


def test_one_trainer_method_syncs_and_one_makes_the_group():
    """weight_sync/policy.py replaces both, reads `use_cuda_ipc`, and uses the group's ends as upstream does."""
    build = ast.unparse(definition(PPO_ACTOR, "ActorPPOTrainer.__init__"))
    assert "self.use_cuda_ipc = backend == 'nccl' and self.args.train.colocate_all and (not self.args" in build
    assert "is not None and (not self.use_cuda_ipc) and (torch.distributed.get_rank() == 0)" in build
    assert "self._init_vllm_sync_group(backend)" in build
    group = ast.unparse(definition(PPO_ACTOR, "ActorPPOTrainer._init_vllm_sync_group"))
    assert "self._model_update_group = stateless_init_process_group(" in group
    assert "i * vllm_tensor_parallel_size + 1" in group
    sync = ast.unparse(definition(PPO_ACTOR, "ActorPPOTrainer.broadcast_to_vllm"))
    for part in (
        "self._model_update_group.broadcast(param.data, src=0, stream=torch.cuda.current_stream())",
        "deepspeed.module_inject.layers.GatherReplacedLayerParams([param], model, enabled=True)",
        "p.requires_grad or not getattr(self.actor, 'is_vlm', False)",
    ):
        assert part in sync
    worker = "openrlhf/trainer/ray/vllm_worker_wrap.py"
    assert "self._model_update_group = stateless_init_process_group(" in source(worker)
    ipc = ast.unparse(definition(worker, "WorkerWrap.update_weight_cuda_ipc"))
    assert "list_args[6] = device_id" in ipc
    assert "self.model_runner.model.load_weights(weights=[(name, weight)])" in ipc


def test_engines_are_held_back_and_woken_around_a_sync():
    """weight_sync/engine.py notes the one; the other is the driver's, before it asks the policy to sync."""
    for name in ("pause_generation", "resume_generation"):
        assert len(calls(definition(ENGINE, f"RolloutRayActor.{name}"), f"self.llm.{name}")) == 1
    sync = ast.unparse(definition(PPO_TRAINER, "BasePPOTrainer.broadcast_to_vllm"))
    wakes, pushes = sync.index("'wake_up', tags=['weights']"), sync.index("method_name='broadcast_to_vllm'")
    assert wakes < pushes


def test_vllm_names_a_quantized_engine_and_knows_a_layerwise_reload():
    """weight_sync/receiver.py calls both ends of it for those, and load_weights alone for others."""
    from vllm.config import ModelConfig
    from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

    assert callable(initialize_layerwise_reload)
    assert callable(finalize_layerwise_reload)
    assert "quantization" in ModelConfig.__dataclass_fields__


def test_vllm_refuses_the_names_of_adapters():
    """settings/checks.py refuses some of LoRA: upstream sends peft's names, which no engine has."""
    from vllm.model_executor.models.utils import AutoWeightsLoader

    module = torch.nn.Module()
    module.model = torch.nn.Linear(1, 1)
    named = [("base_model.model.model.weight", torch.ones(1, 1))]
    with pytest.raises(ValueError, match="no module or parameter named 'base_model'"):
        AutoWeightsLoader(module).load_weights(named)
    assert "merge_adapter" not in source(PPO_ACTOR), "upstream merges them by now"


def test_responses_are_asked_for_by_keyword():
    """sampling/engine_actor.py generate_responses takes nothing else."""
    file = "openrlhf/trainer/ppo_utils/samples_generator.py"
    (call,) = calls(ast.parse(source(file)), "llm_engine.generate_responses.remote")
    assert not call.args
    assert "sampling_params" in {keyword.arg for keyword in call.keywords}


def test_a_rollout_is_what_is_kept_and_what_is_drawn():
    """rollouts.py: both go by `_generate_vllm`, once a rollout; upstream's pass rate counts samples over prompts."""
    file = "openrlhf/trainer/ppo_utils/samples_generator.py"
    generate = definition(file, "SamplesGenerator.generate_samples")
    assert len(calls(generate, "self._generate_vllm")) == 1
    text = ast.unparse(generate)
    for part in (
        "chunk_size = self.args.rollout.batch_size * self.args.rollout.n_samples_per_prompt",
        "if len(self._sample_buffer) < chunk_size and self._dataloader_iter is not None:",
        "filter_pass_rate = len(experiences) / prompts_consumed * 100",
        "exhausted = self._dataloader_iter is None and len(self._sample_buffer) == 0",
    ):
        assert part in text
    evaluate = definition(file, "SamplesGenerator.generate_eval_samples")
    (call,) = calls(evaluate, "self._generate_vllm")
    assert {k.arg: ast.unparse(k.value) for k in call.keywords}["num_prompts"] == "self.args.rollout.batch_size"
    assert "if exhausted:\n" in ast.unparse(evaluate)


def test_which_groups_are_kept():
    """dynamic_sampling.py keeps the same ones: by the mean score, and those without one."""
    text = ast.unparse(
        definition("openrlhf/trainer/ppo_utils/samples_generator.py", "SamplesGenerator._generate_vllm")
    )
    for part in (
        "if dynamic_filtering and all((e.scores is not None for e in experiences)):",
        "scores = [e.scores[0].item() for e in experiences]",
        "avg_reward = sum(scores) / len(scores)",
        "if not min_r < avg_reward < max_r:",
        "prompts, labels, images, exhausted = _collect_prompt_batch(dataloader_iter, num_prompts)",
        "return (accepted_experiences, prompts_consumed, exhausted)",
    ):
        assert part in text


def test_an_episode_ends_where_nothing_more_is_drawn():
    """rollouts.py gives nothing for the part of a rollout that the next episode fills."""
    fit = ast.unparse(definition(PPO_TRAINER, "PPOTrainer.fit"))
    skip = "".join(fit.split("if not rollout_samples:")[1].split("status, global_step")[0].split())
    assert skip == "ifis_exhausted:breakcontinue"
    assert "drop_last=True" in ast.unparse(definition(PPO_ACTOR, "ActorPPOTrainer.ppo_train")), "and drops the rest"


def test_replay_buffer_names_a_cuda_device():
    """cpu_platform.py replaces `torch.device` there; if upstream stops, that patch can go."""
    build = definition("openrlhf/trainer/ppo_utils/replay_buffer.py", "NaiveReplayBuffer.__init__")
    assert "self.target_device = torch.device(f'cuda:{torch.cuda.current_device()}')" in ast.unparse(build)


def test_strategy_names_a_cuda_mesh():
    """cpu_platform.py replaces init_device_mesh; training/actors.py asks the mesh for the data-parallel size."""
    (call,) = calls(definition(STRATEGY, "DeepspeedStrategy.setup_distributed"), "init_device_mesh")
    assert ast.literal_eval(call.args[0]) == "cuda"
    assert "'dp'" in ast.unparse(call)


def test_train_looks_its_actors_up_by_global_names():
    """launch/install.py rebinds them in openrlhf.cli.train_ppo_ray, PPOTrainer in openrlhf.trainer.ppo_trainer."""
    names = train_ppo_ray.train.__code__.co_names
    for name in ("PolicyModelActor", "get_strategy", "create_vllm_engines"):
        assert name in names, f"rpg_openrlhf/launch/install.py relies on train() naming {name}"
        assert hasattr(train_ppo_ray, name)
    text = ast.unparse(definition("openrlhf/cli/train_ppo_ray.py", "train"))
    assert "from openrlhf.trainer.ppo_trainer import PPOTrainer\n" in text
    assert "PPOTrainer.remote(args.actor.model_name_or_path, strategy, " in text
    assert hasattr(ppo_trainer.PPOTrainer, "__ray_actor_class__")


def test_trainers_loop_calls_what_we_override():
    """training/trainer.py: one train_step, one record and one evaluation a rollout; get_max_steps before them."""
    fit = definition(PPO_TRAINER, "PPOTrainer.fit")
    for name in ("train_step", "save_logs_and_checkpoints", "evaluate"):
        assert len(calls(fit, f"self.{name}")) == 1, f"rpg_openrlhf/training/trainer.py overrides {name}"
    train = definition("openrlhf/cli/train_ppo_ray.py", "train")
    assert len(calls(train, "ppo_trainer.get_max_steps.remote")) == 1
    build = ast.unparse(definition(PPO_TRAINER, "BasePPOTrainer.__init__"))
    assert "self.experience_maker = RemoteExperienceMaker(" in build
    assert "self.kl_ctl = FixedKLController(" in build


def test_the_loggers_are_two_attributes():
    """runs/loggers.py replaces them: training/trainer.py builds it where upstream would build its own."""
    build = ast.unparse(definition(PPO_TRAINER, "BasePPOTrainer.__init__"))
    assert "self.wandb_logger = WandbLogger(self.args) if self.args.logger.wandb.key else None" in build
    tensorboard = "TensorboardLogger(self.args) if self.args.logger.tensorboard_dir else None"
    assert f"self.tensorboard_logger = {tensorboard}" in build
    asked = set(re.findall(r"self\.(?:wandb|tensorboard)_logger\.(\w+)", source(PPO_TRAINER)))
    assert asked == {"log_train", "log_eval", "close"}
    from rpg_openrlhf.runs import loggers

    assert all(hasattr(log, name) for log in (loggers.WandbLog, loggers.TensorboardLog) for name in asked)


def test_the_best_checkpoint_goes_by_a_name_of_ours():
    """preflight/eval_sets.py sets the name; training/trainer.py keeps a checkpoint from restoring another one."""
    text = ast.unparse(definition(PPO_TRAINER, "BasePPOTrainer._detect_eval_metric_key"))
    assert "return self.best_eval_metric_key if self.best_eval_metric_key in eval_metrics else None" in text
    assert "self.best_eval_metric_key == 'none'" in text
    saved = ast.unparse(definition(PPO_TRAINER, "BasePPOTrainer.save_best_checkpoint"))
    assert "if current_value > self.best_eval_metric_value" in saved
    fit = ast.unparse(definition(PPO_TRAINER, "PPOTrainer.fit"))
    assert "eval_generate_kwargs['n_samples_per_prompt'] = self.args.eval.n_samples_per_prompt" in fit


def test_a_rows_benchmark_is_its_datasource():
    """preflight/eval_sets.py writes the column; runs/evaluation.py reads what collate_fn gives, in this order."""
    file = "openrlhf/datasets/prompts_dataset.py"
    assert "self.datasources.append(data.get('datasource', 'default'))" in ast.unparse(
        definition(file, "PromptDataset.__init__")
    )
    collate = ast.unparse(definition(file, "PromptDataset.collate_fn"))
    assert "return (datasources, prompts, labels, images)" in collate


def test_what_no_run_of_ours_logs_is_still_upstreams():
    """docs/logs.md documents these, which tests/integration does not see."""
    actor, critic = (source(f"openrlhf/trainer/ray/ppo_{name}.py") for name in ("actor", "critic"))
    for key in ("vllm_kl", "is_filter_ratio"):
        assert f'experience.info["{key}"]' in actor
    for key in ("critic_loss", "values", "critic_lr", "critic_grad_norm"):
        assert f'"{key}": ' in critic
    assert 'status["dynamic_filtering_pass_rate"]' in source(PPO_TRAINER)


@pytest.mark.parametrize("name", cpu_platform.PATCHES)
def test_patched_modules_exist(name):
    assert importlib.util.find_spec(name) is not None, f"cpu_platform.py patches {name}"


def test_patched_names_exist():
    """Besides those above: what cpu_platform.py sets without asking whether it is there."""
    from deepspeed.ops import __compatible_ops__

    assert "deepspeed_shm_comm" in __compatible_ops__
    assert callable(importlib.import_module("vllm.model_executor.layers.utils").dispatch_cpu_unquantized_gemm)
    ring_attention = source("openrlhf/models/ring_attn_utils.py")
    imported = [line for line in ring_attention.splitlines() if line.startswith("from flash_attn")]
    assert imported == [
        "from flash_attn.bert_padding import index_first_axis, pad_input, rearrange, unpad_input",
        "from flash_attn.utils.distributed import all_gather",
    ]


def overrides() -> list[tuple[type, str]]:
    """Each of our methods that stands in for one of an upstream class."""
    found = []
    for ours in (value for module in OURS for value in vars(module).values() if inspect.isclass(value)):
        bases = [base for base in ours.__mro__[1:] if base.__module__.startswith("openrlhf.")]
        if ours.__module__.startswith("rpg_openrlhf.") and bases:
            found += [(ours, name) for name in vars(ours) if any(name in vars(base) for base in bases)]
    return [(ours, name) for ours, name in dict.fromkeys(found) if inspect.isfunction(vars(ours)[name])]


OVERRIDES = overrides()
ids = [f"{ours.__name__}.{name}" for ours, name in OVERRIDES]


def test_overrides_are_found():
    assert {"RPGPolicyLoss.forward", "StepBoundaryTrainer.training_step", "RPGRolloutActor.generate"} <= set(ids)
    assert {"RPGTrainer.evaluate", "BucketedSync.broadcast_to_vllm", "RPGExperienceMaker._flatten_results"} <= set(ids)


@pytest.mark.parametrize(("ours", "name"), OVERRIDES, ids=ids)
def test_an_override_says_how_it_differs(ours, name):
    """A constructor says it in its class."""
    text = ours.__doc__ if name == "__init__" else vars(ours)[name].__doc__
    assert "Differs from" in (text or ""), f"{ours.__name__}.{name}: begin the docstring with the difference"


@pytest.mark.parametrize(
    ("ours", "name"),
    # RPGPolicyLoss is built by us alone.
    [row for row in OVERRIDES if row != (policy_loss.RPGPolicyLoss, "__init__")],
    ids=[name for name in ids if name != "RPGPolicyLoss.__init__"],
)
def test_an_override_takes_what_upstreams_method_takes(ours, name):
    """Every parameter by its name; those it takes by place, in upstream's order."""
    theirs = next(
        vars(base)[name] for base in ours.__mro__[1:] if name in vars(base) and "rpg_" not in base.__module__
    )
    expected = inspect.signature(theirs).parameters
    signature = inspect.signature(vars(ours)[name])
    # Ray gives the methods of a decorated class a parameter of its own.
    named = [p.name for p in expected.values() if p.kind == p.POSITIONAL_OR_KEYWORD and p.name != "_ray_trace_ctx"]
    signature.bind(None, **dict.fromkeys(named[1:]))
    by_place = [p.name for p in signature.parameters.values() if p.kind == p.POSITIONAL_OR_KEYWORD]
    assert by_place == named[: len(by_place)]
    for kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
        if any(p.kind == kind for p in expected.values()):
            assert any(p.kind == kind for p in signature.parameters.values())


def test_an_engine_needs_to_be_told_how_many_sequences_to_decode():
    """launch/install.py: OpenRLHF names neither number nor context, vLLM has no default for it."""
    from vllm.config import SchedulerConfig
    from vllm.engine.arg_utils import EngineArgs
    from vllm.usage.usage_lib import UsageContext
    from vllm.v1.engine.async_llm import AsyncLLM

    context = inspect.signature(AsyncLLM.from_engine_args).parameters["usage_context"].default
    assert context == UsageContext.ENGINE_CONTEXT
    assert context not in EngineArgs.get_batch_defaults(1)[1]
    assert SchedulerConfig.DEFAULT_MAX_NUM_SEQS == 128, "why launch/install.py asks for more"
    source = inspect.getsource(vllm_engine)
    assert "max_num_seqs" not in source
    assert "usage_context" not in source


def test_deepspeeds_buckets_are_those_that_memory_is_estimated_with():
    """settings/memory.py: OpenRLHF leaves them to "auto", which DeepSpeed takes as not given."""
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    given = {"stage": 3, "reduce_bucket_size": "auto", "stage3_max_live_parameters": "auto"}
    found = DeepSpeedZeroConfig(**given)
    assert (found.reduce_bucket_size, found.max_live_parameters) == (memory.REDUCE_ELEMENTS, memory.LIVE_ELEMENTS)
    for name in ("reduce_bucket_size", "stage3_max_live_parameters"):
        assert f'"{name}": "auto"' in inspect.getsource(deepspeed_utils)


def test_the_weight_syncs_buffers_are_those_that_memory_is_estimated_with():
    from rpg_openrlhf.weight_sync import policy, transports

    cuda, cpu = policy.BUCKET_BYTES["cuda"], policy.BUCKET_BYTES["cpu"] * transports.SharedMemory.slots
    assert {"cuda": cuda * transports.CudaIpc.slots, "cpu": cpu} == memory.BUCKET_BYTES
