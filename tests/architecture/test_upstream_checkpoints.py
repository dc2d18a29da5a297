"""What checkpoints and resuming rely on in OpenRLHF 0.11.2. A failure names the seam and the file that leans on it."""

import ast

import pytest

from tests.architecture.test_upstream_shape import ENGINE, PPO_ACTOR, PPO_TRAINER, STRATEGY, calls, definition, source

PPO_CRITIC = "openrlhf/trainer/ray/ppo_critic.py"
GENERATOR = "openrlhf/trainer/ppo_utils/samples_generator.py"
TRAIN = "openrlhf/cli/train_ppo_ray.py"


@pytest.mark.parametrize(("file", "name"), [(PPO_ACTOR, "PolicyModelActor"), (PPO_CRITIC, "CriticModelActor")])
def test_models_save_and_load_through_the_strategy(file, name):
    """checkpointing.py: both go by `load_enable`, the folder's existence and the strategy's methods."""
    save = definition(file, f"{name}.save_checkpoint")
    assert len(calls(save, "self.strategy.save_ckpt")) == 1
    build = ast.unparse(definition(file, f"{name}.init_model_from_pretrained"))
    part = "_actor" if "actor" in file else "_critic"
    assert f"ckpt_path = os.path.join(args.ckpt.path, '{part}')" in build
    assert "if args.ckpt.load_enable and os.path.exists(ckpt_path):" in build
    assert "strategy.load_ckpt(" in build


def test_policy_saves_its_hugging_face_model_after_the_rest():
    """checkpointing.py commits when both are there."""
    text = ast.unparse(definition(PPO_ACTOR, "PolicyModelActor.save_checkpoint"))
    assert text.index("self.strategy.save_ckpt(") < text.index("self.strategy.save_model(")
    assert "save_path = os.path.join(args.ckpt.path, f'{tag}_hf')" in text


def test_strategy_rotates_within_the_folder_it_is_given_and_then_writes():
    """checkpointing.py gives it a hidden one, where there is nothing to rotate away."""
    save = definition(STRATEGY, "DeepspeedStrategy.save_ckpt")
    text = ast.unparse(save)
    assert "os.listdir(save_dir)" in text
    (call,) = calls(save, "model.save_checkpoint")
    assert ast.unparse(call).endswith("(save_dir, tag=tag, client_state=client_state, save_latest=save_latest)")
    load = definition(STRATEGY, "DeepspeedStrategy.load_ckpt")
    assert ast.unparse(calls(load, "model.load_checkpoint")[0]).startswith("model.load_checkpoint(load_dir, tag, ")


def test_get_strategy_names_its_class_in_a_local_import():
    """launch/install.py rebinds it in openrlhf.utils.deepspeed."""
    text = ast.unparse(definition("openrlhf/utils/utils.py", "get_strategy"))
    assert "from openrlhf.utils.deepspeed import DeepspeedStrategy" in text
    assert "strategy = DeepspeedStrategy(" in text


def test_trainer_goes_on_from_its_states():
    """training/trainer.py adds to the states that are saved, and empties the loader's."""
    fit = ast.unparse(definition(PPO_TRAINER, "PPOTrainer.fit"))
    assert "checkpoint_states = self.init_checkpoint_states()" in fit
    assert "self.broadcast_to_vllm()\n" in fit, "the engines get the resumed weights"
    assert "if state_dict:\n" in fit
    assert "self.save_logs_and_checkpoints(global_step, status, client_states)" in fit
    assert "self.save_best_checkpoint(eval_logs, global_step, client_states)" in fit
    for name in ("save_logs_and_checkpoints", "save_best_checkpoint"):
        save = definition(PPO_TRAINER, f"BasePPOTrainer.{name}")
        assert "client_states=client_states" in ast.unparse(save)
    step = definition(PPO_TRAINER, "BasePPOTrainer.train_step")
    assert len(calls(step, "self.ppo_train")) == len(calls(step, "self.broadcast_to_vllm")) == 1


def test_generator_keeps_its_place_in_two_attributes():
    """rollouts.py begins an episode where both are empty, and saves the second."""
    text = ast.unparse(definition(GENERATOR, "SamplesGenerator.generate_samples"))
    assert "self._dataloader_iter = iter(self.prompts_dataloader)" in text
    assert "exhausted = self._dataloader_iter is None and len(self._sample_buffer) == 0" in text
    assert "_sample_buffer" not in ast.unparse(definition(GENERATOR, "SamplesGenerator._generate_vllm"))


def test_generator_asks_engines_one_prompt_after_the_other():
    """rollouts.py numbers requests in the order they are made, and drops the tokenizer."""
    dispatch = definition(GENERATOR, "SamplesGenerator._dispatch_prompts_to_vllm")
    (call,) = calls(dispatch, "llm_engine.generate_responses.remote")
    given = {keyword.arg for keyword in call.keywords}
    assert given == {
        "prompt", "label", "sampling_params", "max_length", "hf_tokenizer", "num_samples", "images",
    }  # fmt: skip
    assert "enumerate(zip(prompts, labels, images))" in ast.unparse(dispatch)
    respond = definition(ENGINE, "RolloutRayActor.generate_responses")
    assert len(calls(respond, "self.executor.execute")) == 1


def test_train_passes_the_critic_by_a_global_name():
    """launch/install.py rebinds it."""
    assert "CriticModelActor" in ast.unparse(definition(TRAIN, "train"))
    assert "from openrlhf.trainer.ray.ppo_critic import CriticModelActor" in source(TRAIN)
