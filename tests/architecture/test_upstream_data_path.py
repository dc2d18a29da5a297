"""What the data path relies on in OpenRLHF 0.11.2: who reads what of a sample, a micro-batch, a step's numbers.

That both paths end in the same tensors is tests/unit/test_micro_batches.py's.
"""

import ast
import re

import pytest

from tests.architecture.test_upstream_shape import (
    MAKER,
    PPO_ACTOR,
    PPO_TRAINER,
    STRATEGY,
    calls,
    definition,
    parameters,
    source,
)

GENERATOR = "openrlhf/trainer/ppo_utils/samples_generator.py"
PROCESS = "SamplesGenerator._process_response_into_experience"
EXPERIENCE = "openrlhf/trainer/ppo_utils/experience.py"
BUFFER = "openrlhf/trainer/ppo_utils/replay_buffer.py"
LAUNCHER = "openrlhf/trainer/ray/launcher.py"


def text(file: str, name: str) -> str:
    return ast.unparse(definition(file, name))


@pytest.mark.parametrize(
    ("ours", "file", "name", "expected"),
    [
        ("rollouts.py", GENERATOR, PROCESS, "self response **generate_kwargs"),
        ("dynamic_sampling.py", GENERATOR, "SamplesGenerator._generate_vllm",
         "self dataloader_iter num_prompts dynamic_filtering **generate_kwargs"),
        ("micro_batches.py", MAKER, "RemoteExperienceMaker.split_rollout_samples", "self rollout_samples"),
        ("micro_batches.py", MAKER, "RemoteExperienceMaker.get_cumulative_returns", "self rewards action_mask gamma"),
        ("micro_batches.py", EXPERIENCE, "balance_experiences", "experiences args"),
        ("column_actors.py", BUFFER, "NaiveReplayBuffer.append", "self experience"),
        ("column_actors.py", BUFFER, "NaiveReplayBuffer.collate_fn", "self batch"),
        ("measured_once.py", STRATEGY, "DeepspeedStrategy.all_reduce", "self data op="),
    ],
)  # fmt: skip
def test_signature(ours, file, name, expected):
    assert parameters(definition(file, name).args) == expected, f"{ours} relies on {file} {name}"


@pytest.mark.parametrize("file", [LAUNCHER, PPO_ACTOR])
def test_a_forward_pass_takes_three_tensors_and_returns_one(file):
    """column_actors.py ColumnForward gives them by place."""
    kind = "ReferenceModelActor" if file == LAUNCHER else "PolicyModelActor"
    assert parameters(definition(file, f"{kind}.forward").args).startswith(
        "self sequences action_mask= attention_mask= "
    )
    assert re.search(r"return \w+\.to\('cpu'\)$", text(file, f"{kind}.forward"))


def read_of(name: str, *functions: str) -> set[str]:
    return set(re.findall(rf"\b{name}\.(\w+)", " ".join(functions)))


def test_what_is_read_of_a_sample():
    """sampling/samples.py Sample has these, and training/trainer.py in_order reads `sequences`."""
    generate = text(GENERATOR, "SamplesGenerator._generate_vllm")
    assert read_of("e", generate) == {"scores"}
    assert "for response in ray.get(ref)]" in generate, "an answer is iterated"
    assert read_of("s", text(PPO_TRAINER, "compute_eval_metrics")) == {
        *("prompts", "rewards", "response_length", "truncated")
    }
    split = text(MAKER, "RemoteExperienceMaker.split_rollout_samples")
    assert read_of("sample", split) | read_of("s", split) == {"index", "total_length"}, "all that a stand-in has"


def test_what_is_read_of_a_micro_batch():
    """micro_batches.py MicroBatch has these; attention masks are for models alone, which get columns."""
    step = text(PPO_TRAINER, "BasePPOTrainer.train_step")
    assert set(re.findall(r"experiences\[0\]\.(\w+)", step)) == {"sequences", "info"}
    assert "self.actor_model_group.async_run_method_batch(method_name='append', experience=experiences)" in step
    assert read_of("exp", text(PPO_TRAINER, "BasePPOTrainer._compute_rollout_stats")) == {
        *("info", "response_length", "truncated")
    }
    make = text(MAKER, "RemoteExperienceMaker.make_experience")
    assert read_of("s", make) == {"sequences", "attention_mask", "action_mask", "mm_train_inputs"}
    assert "dict(sequences=sequences_list, action_mask=action_mask_list, attention_mask=attention_mask_list)" in make
    shaped = text(MAKER, "RemoteExperienceMaker.compute_advantages_and_returns")
    assert read_of("experience", shaped) | read_of("exp", shaped) <= {
        *("rewards", "index", "info", "kl", "action_mask", "values", "advantages", "returns")
    }


def test_what_a_training_step_reads():
    """column_actors.py batch_of has these; prompts and labels stay with the driver."""
    step = text(PPO_ACTOR, "ActorPPOTrainer.training_step")
    assert read_of("experience", step) == {
        *("sequences", "action_mask", "attention_mask", "action_log_probs", "advantages", "base_action_log_probs"),
        *("rollout_log_probs", "mm_train_inputs", "info"),
    }
    assert "metrics[k] = torch.tensor(v, dtype=torch.float)" in step, "info comes as tensors of that dtype"
    assert "weights[k] = 'token' if v.dim() == 0 else 'sample'" in step


def test_names_that_are_rebound():
    """training/trainer.py and training/actors.py rebind them in the process that looks them up."""
    assert "balance_experiences(" in text(PPO_TRAINER, "BasePPOTrainer.train_step")
    build = text(PPO_TRAINER, "PPOTrainer.__init__")
    assert "SamplesGenerator(strategy=strategy, prompts_dataloader=self.prompts_dataloader, " in build
    assert "eval_dataloader=self.eval_dataloader, tokenizer=tokenizer, vllm_engines=vllm_engines)" in build
    assert "NaiveReplayBuffer(" in text(PPO_ACTOR, "ActorPPOTrainer.__init__")


def test_what_is_read_of_what_a_buffer_holds():
    """sampling/samples.py Sample has these."""
    plan = text(BUFFER, "NaiveReplayBuffer.setup_dynamic_batch")
    assert read_of("sample", plan) == {"total_length"}
    assert set(re.findall(r"self\.items\[idx\]\.(\w+(?:\.\w+\(\))*)", plan)) == {"action_mask.sum().item()"}


def test_which_numbers_ranks_exchange():
    """measured_once.py: of a micro-batch a dictionary, weighed by tokens or samples, and two of the last step."""
    train = text(PPO_ACTOR, "ActorPPOTrainer.ppo_train")
    assert len(calls(definition(PPO_ACTOR, "ActorPPOTrainer.ppo_train"), "self.strategy.all_reduce")) == 1
    assert "{'_num_action_tokens': n_tokens, '_num_samples': n_samples}" in train
    assert "if k in ('actor_grad_norm', 'actor_lr'):" in train
    assert "value.float().mean().item() * scale if isinstance(value, torch.Tensor) else value * scale" in train
    assert "total_tokens" in train
    assert "total_samples" in train


def test_what_an_executor_answers():
    """sampling/samples.py pack reads these of upstream's single-turn executor."""
    execute = text("openrlhf/utils/agent.py", "SingleTurnAgentExecutor.execute")
    for name in (
        "prompt", "label", "images", "mm_train_inputs", "observation_tokens", "action_ranges", "rollout_log_probs",
        "truncated", "reward", "scores", "extra_logs",
    ):  # fmt: skip
        assert f"'{name}': " in execute
    assert "extra_logs=rewards_info.get('extra_logs') or {}" in execute
    assert "max_length=truncate_length" in source(GENERATOR), "engine_actor.py cuts where upstream's driver would"
