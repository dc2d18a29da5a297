"""Whatever cannot work or cannot act is refused before anything starts: one line, status 2, nothing else printed."""

import importlib.util
import json
import re
import socket

import pytest

from rpg_openrlhf.commands import train_rpg
from rpg_openrlhf.settings import defaults as settle
from rpg_openrlhf.settings import machine
from tests.unit.launcher_case import argv, good_flags, write_rows


@pytest.fixture
def good(tmp_path):
    return good_flags(tmp_path)


def refused(capsys, values) -> str:
    status = train_rpg.main(argv(values), launch=lambda args: pytest.fail("it was launched"))
    out, err = capsys.readouterr()
    assert status == 2
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("train_rpg: --")
    return err


def test_the_good_case_is_launched(good, tmp_path, capsys):
    launched = []
    assert train_rpg.main(argv(good), launch=lambda args: launched.append(args) or 0) == 0
    assert launched[0].rpg.divergence == "urkl"
    assert "3 rollouts, 12 optimizer steps (100 prompts x 1 episodes)" in capsys.readouterr().out
    assert (tmp_path / "out" / "logs" / "config.yaml").is_file()


SCHEDULE_FREE = {"actor.optim": "schedulefree"}
FOUR_BIT = {"ds.load_in_4bit": "", "ds.lora.rank": "8", "ds.param_dtype": "bf16"}
MUON_3 = {"actor.optim": "muon", "ds.zero_stage": "3"}
BASELINE = {"algo.objective": "openrlhf", "algo.advantage.estimator": "group_norm"}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        # what cannot act
        ({"algo.dynamic_filtering_max_draws": "-1"}, "--algo.dynamic_filtering_max_draws -1: must be at least 0"),
        ({"reward.stop_properly_penalty_coef": "1.5"}, "--reward.stop_properly_penalty_coef 1.5: must be at most 1"),
        (
            {"reward.remote_url": None, "reward.stop_properly_penalty_coef": "0.5"},
            "--reward.stop_properly_penalty_coef 0.5: multiplies the reward of a truncated reply",
        ),
        (
            {
                "reward.remote_url": None,
                "algo.dynamic_filtering_enable": "",
                "algo.dynamic_filtering_range": "1 2",
            },
            "--algo.dynamic_filtering_range 1.0 2.0: no group passes",
        ),
        ({"train.batch_size": "256"}, "--rpg.beta 0.0001: the KL cannot act"),
        ({"algo.kl.init_coef": "0.1"}, "--algo.kl.init_coef 0.1: RPG's KL is in its loss"),
        ({"algo.kl.use_loss": ""}, "--algo.kl.use_loss True: RPG's KL is in its loss"),
        ({"train.max_rollouts": "0"}, "--train.max_rollouts 0: must be at least 1"),
        ({"critic.model_name_or_path": "x"}, "--critic.model_name_or_path x: RPG has no critic"),
        ({**BASELINE, "rpg.beta": "1e-4"}, "--rpg.beta 0.0001: has no effect with --algo.objective openrlhf"),
        ({**BASELINE, "ref.refresh": "rollout"}, "--ref.refresh rollout: cannot act without a KL in the loss"),
        (
            {**BASELINE, "ref.refresh": "rollout", "algo.kl.use_loss": "", "algo.kl.target": "0.1"},
            "--algo.kl.target 0.1: has no effect with --ref.refresh rollout",
        ),
        (
            {**BASELINE, "ref.refresh": "ema"},
            "--ref.refresh ema: with --algo.objective openrlhf the reference is fixed",
        ),
        (
            {**BASELINE, "ref.refresh": "never", "algo.kl.init_coef": "0"},
            "--ref.refresh never: no reference is used with --algo.kl.init_coef 0",
        ),
        ({**BASELINE, "algo.advantage.estimator": "none"}, "--algo.advantage.estimator none"),
        ({**BASELINE, "algo.kl.use_loss": "", "algo.kl.init_coef": "0"}, "--algo.kl.use_loss: cannot act"),
        (
            {"rpg.importance_level": "sequence", "algo.advantage.is_correction_level": "token"},
            "is_correction_level token: with --rpg.importance_level sequence",
        ),
        (
            {"actor.eps_clip": "0.05", "actor.eps_clip_low_high": "0.2 0.28"},
            "--actor.eps_clip 0.05: --actor.eps_clip_low_high 0.2 0.28 overrides it",
        ),
        (
            {"rpg.old_policy": "rollout", "algo.advantage.is_correction_level": "token"},
            "is_correction_level token: with",
        ),
        ({"actor.policy_loss_type": "gspo"}, "use --rpg.importance_level sequence"),
        (
            {"train.async_enable": "", "rpg.old_policy": "recompute"},
            "--rpg.old_policy recompute: with --train.async_enable the policy that recomputes is newer",
        ),
        (
            {"train.async_enable": "", "train.partial_rollout_enable": "", "train.async_queue_size": "0"},
            "--train.partial_rollout_enable: cannot act with --train.async_queue_size 0",
        ),
        ({"data.max_images_per_prompt": "1"}, "--data.max_images_per_prompt 1: images are not supported"),
        ({"algo.advantage.estimator": "gae"}, "--algo.advantage.estimator gae: RPG has no critic"),
        ({"rollout.n_samples_per_prompt": "1", "train.batch_size": "16"}, "with the group baseline dr_grpo"),
        (
            {"actor.chunked_head": "on", "ds.deepcompile": ""},
            "--actor.chunked_head on: cannot be used with --ds.deepcompile True",
        ),
        # Schedule-Free AdamW
        ({**SCHEDULE_FREE, "actor.lr_scheduler": "linear"}, "--actor.lr_scheduler linear: --actor.optim schedulefree"),
        ({**SCHEDULE_FREE, "ref.refresh": "ema", "ref.mix": "0.1"}, "--ref.refresh ema: mixes at every step"),
        ({**SCHEDULE_FREE, "ds.adam_offload": ""}, "--ds.adam_offload: cannot be used with --actor.optim schedulef"),
        ({**SCHEDULE_FREE, "train.enable_ema": ""}, "--train.enable_ema: cannot be used with --actor.optim schedul"),
        ({**SCHEDULE_FREE, "actor.adam.betas": "0 0.9"}, "--actor.adam.betas 0.0 0.9: with --actor.optim"),
        ({**MUON_3, "train.micro_batch_size": "16"}, "--actor.optim muon: DeepSpeed computes a wrong step"),
        # what cannot reach the engines
        (
            {"ds.lora.rank": "8", "ds.lora.target_modules": "q_proj lm_head"},
            "--ds.lora.target_modules lm_head: an adapter on the output layer is not merged",
        ),
        (
            {"ds.lora.rank": "8", "ref.refresh": "never", "ref.model_name_or_path": "base"},
            "--ref.model_name_or_path base: with --ds.lora.rank the reference is the base model",
        ),
        ({"ds.lora.rank": "-1"}, "--ds.lora.rank -1: must be at least 0"),
        ({"ds.load_in_4bit": ""}, "--ds.load_in_4bit: 4-bit weights cannot be trained; give --ds.lora.rank 32"),
        ({**FOUR_BIT, "ds.param_dtype": "fp32"}, "--ds.param_dtype fp32: with --ds.load_in_4bit OpenRLHF computes in"),
        ({**FOUR_BIT, "ds.zero_stage": "3"}, "--ds.zero_stage 3: packed 4-bit weights cannot be sharded; set 2"),
        ({"vllm.sync_with_ray": ""}, "--vllm.sync_with_ray: Ray's collectives are not supported"),
        ({"vllm.sync_backend": "mpi"}, "--vllm.sync_backend mpi: does not exist on the platform cpu; use shm"),
        ({"platform": "cuda", "vllm.sync_backend": "gloo"}, "--vllm.sync_backend gloo: .* platform cuda; leave"),
        # out of range
        ({"rpg.beta": "-1"}, "--rpg.beta -1.0: must be at least 0"),
        ({"actor.dual_clip": "1"}, "--actor.dual_clip 1.0: must be above 1"),
        (
            {"actor.eps_clip_low_high": "0.2 1.5"},
            "--actor.eps_clip_low_high 0.2 1.5: must be above 0 and at most 1",
        ),
        (
            {"rpg.clip_mode": "truncate", "rpg.gradient_estimator": "differentiable"},
            "--rpg.clip_mode truncate: needs --rpg.gradient_estimator reinforce",
        ),
        (
            {"rpg.reward_weight": "sequence"},
            "--rpg.reward_weight sequence: cannot act with --rpg.importance_level token",
        ),
        ({"actor.eps_clip": "0"}, "--actor.eps_clip 0.0: must be above 0"),
        ({"rollout.temperature": "0"}, "--rollout.temperature 0.0: must be above 0"),
        ({"rollout.batch_size": "0"}, "--rollout.batch_size 0: must be at least 1"),
        ({"ckpt.save_steps": "0"}, "--ckpt.save_steps 0: must be at least 1, or -1"),
        ({"vllm.num_engines": None}, "--vllm.num_engines is missing: rollouts need vLLM"),
        ({"vllm.num_engines": "0"}, "--vllm.num_engines 0: must be at least 1"),
        ({"ds.zero_stage": "4"}, "--ds.zero_stage 4: must be between 0 and 3"),
        ({"rollout.max_new_tokens": "96"}, "--rollout.max_new_tokens 96: leaves no room for a prompt"),
        ({"reward.overlong_buffer_len": "100"}, "--reward.overlong_buffer_len 100.0: must be at most"),
        ({"data.max_len": "512"}, "--data.max_len 512: is more than the model's 256 positions"),
        (
            {"algo.dynamic_filtering_enable": "", "algo.dynamic_filtering_range": "1 0"},
            "dynamic_filtering_range 1.0 0.0",
        ),
        (
            {"algo.advantage.is_correction_level": "seq", "algo.advantage.is_correction_mode": "clip"},
            "mode clip: only a",
        ),
        (
            {"algo.advantage.is_correction_level": "seq", "algo.advantage.is_correction_gating": "tv"},
            "gating tv: is bounded",
        ),
        ({"actor.gradient_checkpointing_layers": "2"}, "layers 2: has no effect without --actor.gradient_checkp"),
        (
            {"actor.gradient_checkpointing_enable": "", "actor.gradient_checkpointing_layers": "0"},
            "--actor.gradient_checkpointing_layers 0: must be at least 1",
        ),
        (
            {"actor.gradient_checkpointing_enable": "", "actor.gradient_checkpointing_layers": "99"},
            "--actor.gradient_checkpointing_layers 99: the model has",
        ),
        # what does not divide
        ({"train.batch_size": "60"}, "--train.batch_size 60: does not divide a rollout's 256 samples"),
        ({"train.micro_batch_size": "48"}, "--train.batch_size 64: is not a multiple of --train.micro_batch_size 48"),
        (
            {"actor.num_gpus_per_node": "3"},
            "--train.batch_size 64: is not a multiple of --train.micro_batch_size 64 x 3",
        ),
        ({"rollout.micro_batch_size": "48"}, "--rollout.micro_batch_size 48: x 1 ranks = 48 does not divide"),
        ({"ds.tensor_parallel_size": "2"}, "--actor.num_gpus_per_node 1: 1 GPUs do not split into groups of 2"),
        (
            {"rollout.vllm_generate_batch_size": "64"},
            "--rollout.vllm_generate_batch_size 64: must be --rollout.batch_size 32",
        ),
        ({"vllm.num_engines": "2", "train.colocate_all": ""}, "--vllm.num_engines 2: x --vllm.tensor_parallel_size 1"),
        (
            {**BASELINE, "train.colocate_all": "", "ref.num_gpus_per_node": "2"},
            "--ref.num_gpus_per_node 2: differs from --actor.num_gpus_per_node 1, but the reference model and the",
        ),
        ({"rollout.batch_size": "128"}, "--rollout.batch_size 128: the data set has only 100 prompts"),
        ({"data.max_samples": "16"}, "--rollout.batch_size 32: the data set has only 16 prompts"),
        # what is not there
        ({"actor.model_name_or_path": None}, "--actor.model_name_or_path is missing"),
        ({"actor.model_name_or_path": "./nowhere"}, "--actor.model_name_or_path ./nowhere: no such folder"),
        ({"data.prompt_dataset": None}, "--data.prompt_dataset is missing"),
        ({"data.prompt_dataset": "nowhere.jsonl"}, "--data.prompt_dataset nowhere.jsonl: no such file"),
        ({"data.prompt_dataset": "/no/where"}, "--data.prompt_dataset /no/where: no such file or folder"),
        (
            {"data.input_key": "question"},
            "--data.input_key question: .*train.jsonl:1 has no such column; it has input, label",
        ),
        ({"data.label_key": "answer"}, "--data.label_key answer: "),
        ({"data.prompt_split": "test"}, "--data.prompt_split test: a single file has only the split train"),
        ({"reward.remote_url": "nowhere.py"}, "--reward.remote_url nowhere.py: no such file"),
        ({"train.agent_func_path": "nowhere.py"}, "--train.agent_func_path nowhere.py: no such file"),
        ({"data.apply_chat_template": ""}, "--data.apply_chat_template: the model's tokenizer has no chat template"),
        ({"data.prompt_probs": "0.5,0.5"}, "--data.prompt_probs 0.5,0.5: 2 numbers for 1 data sets"),
        ({"data.input_template": "\\boxed{answer}{}"}, "--data.input_template"),
        ({"data.input_template": "Q:{0}"}, "--data.input_template 'Q:"),
        ({"data.input_template": "Q:{0.x}{}"}, "--data.input_template"),
        ({"train.agent_func_path": "agent"}, "--train.agent_func_path agent: give a .py file"),
        ({"reward.remote_url": "localhost:5000/score"}, "give a .py file or an http:// address"),
        ({"ckpt.output_dir": "/dev/null/out"}, "--ckpt.output_dir /dev/null/out: /dev/null is a file"),
        ({"logger.tensorboard_dir": "/dev/null"}, "--logger.tensorboard_dir /dev/null: /dev/null is a file"),
        ({"platform": "cuda", "ds.param_dtype": "fp32"}, "--ds.param_dtype fp32: is for the CPU platform"),
        ({"ds.param_dtype": "fp16"}, "--ds.param_dtype fp16: vLLM's engines are built in bf16"),
        (
            {"platform": "cuda", "ds.attn_implementation": "flash_attention_2"},
            "--ds.attn_implementation flash_attention_2: the package flash-attn is not installed",
        ),
        (
            {"platform": "cuda", "ds.ring_attn_size": "2", "actor.num_gpus_per_node": "2"},
            "--ds.ring_attn_size 2: ring attention needs the packages flash-attn and ring-flash-attn",
        ),
    ],
)
def test_refused(good, capsys, change, says):
    line = refused(capsys, {**good, **change})
    assert re.search(says, line), line


def rows_of(good, tmp_path, rows):
    return {**good, "data.prompt_dataset": str(write_rows(tmp_path / "bad.jsonl", rows))}


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (["not", "an", "object"], "bad.jsonl:2 is not an object"),
        ({"input": None, "label": "1"}, "bad.jsonl:2: 'input' must be a text, not NoneType"),
        ({"input": "", "label": "1"}, "bad.jsonl:2: 'input' is empty"),
        ({"input": [{"role": "user", "content": "x"}], "label": "1"}, "give --data.apply_chat_template for messages"),
        ({"label": "1"}, "--data.input_key input: .*bad.jsonl:2 has no such column"),
    ],
)
def test_malformed_rows_are_named(good, tmp_path, capsys, row, says):
    assert re.search(says, refused(capsys, rows_of(good, tmp_path, [{"input": "1+1=", "label": "2"}, row])))


def test_broken_files_are_named(good, tmp_path, capsys):
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"input": "1+1=", "label": "2"}\n{"input": \n')
    assert "broken.jsonl:2 is not JSON" in refused(capsys, {**good, "data.prompt_dataset": str(broken)})
    broken.write_bytes(b"\xff\xfe\x00")
    assert "is not UTF-8" in refused(capsys, {**good, "data.prompt_dataset": str(broken)})
    broken.write_text("")
    assert "holds no rows" in refused(capsys, {**good, "data.prompt_dataset": str(broken)})
    parquet = tmp_path / "broken.parquet"
    parquet.write_bytes(b"no parquet")
    assert "is not a parquet file" in refused(capsys, {**good, "data.prompt_dataset": str(parquet)})


def test_the_default_reward_needs_a_gold_answer(good, tmp_path, capsys, monkeypatch):
    grader = tmp_path / "grader.py"
    grader.write_text("def reward_func(queries, prompts, labels): ...\n")
    monkeypatch.setattr(settle, "REWARD_FUNC", str(grader))
    good["reward.remote_url"] = None
    assert "--data.label_key is missing" in refused(capsys, {**good, "data.label_key": None})
    assert "bad.jsonl:1: 'label' must be the gold answer, not None" in refused(
        capsys, rows_of(good, tmp_path, [{"input": "1+1=", "label": None}])
    )


def test_models_that_bring_code_need_the_users_word(good, tmp_path, capsys):
    path = tmp_path / "model" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "auto_map": {"AutoConfig": "configuration_x.X"}}))
    assert "give --trust_remote_code" in refused(capsys, good)
    assert train_rpg.main([*argv(good), "--trust_remote_code"], launch=lambda args: 0) == 0


def test_data_sets_that_bring_code_need_the_users_word(good, tmp_path, capsys):
    script = tmp_path / "train.py"
    script.touch()
    assert "give --trust_remote_code" in refused(capsys, {**good, "data.prompt_dataset": str(script)})


def test_incomplete_model_folders(good, tmp_path, capsys):
    folder = tmp_path / "model"
    (folder / "model.safetensors").unlink()
    assert "contains no weights" in refused(capsys, good)
    for file in folder.glob("tokenizer*"):
        file.unlink()
    assert "contains no tokenizer" in refused(capsys, good)
    (folder / "config.json").write_text("{")
    assert "config.json cannot be read" in refused(capsys, good)
    (folder / "config.json").unlink()
    assert "contains no config.json" in refused(capsys, good)


def test_more_gpus_than_this_machine_has(good, capsys, monkeypatch):
    monkeypatch.setattr(machine, "gpu_memory_gib", lambda: [80.0])
    monkeypatch.setattr(machine, "in_a_ray_cluster", lambda: False)
    good["platform"] = "cuda"
    assert "the run asks for 2 GPUs" in refused(capsys, good)
    assert train_rpg.main([*argv(good), "--train.colocate_all"], launch=lambda args: 0) == 0


def test_no_gpu_at_all(good, capsys, monkeypatch):
    monkeypatch.setattr(machine, "gpu_memory_gib", lambda: [])
    monkeypatch.setattr(machine, "in_a_ray_cluster", lambda: False)
    assert "--platform cuda: no CUDA device is visible" in refused(capsys, {**good, "platform": "cuda"})


def test_schedule_free_without_its_package_is_refused(good, capsys, monkeypatch):
    """No silent AdamW."""
    find = importlib.util.find_spec
    without = {"schedulefree": lambda _: None}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: without.get(name, find)(name))
    assert "pip install schedulefree==1.4.1" in refused(capsys, {**good, **SCHEDULE_FREE})


def test_the_kl_can_act_in_one_step_when_samples_and_training_differ(good):
    """Under Schedule-Free AdamW the policy that sampled is x, the trained one y."""
    one_step = {**good, **SCHEDULE_FREE, "train.batch_size": "256"}
    assert train_rpg.main(argv(one_step), launch=lambda args: 0) == 0


@pytest.mark.parametrize(
    ("flag", "text", "says"),
    [
        ("reward.remote_url", "def reward_func(:\n", "line 1 is not Python: "),
        ("reward.remote_url", "def reward(queries, prompts, labels): ...\n", "defines no reward_func"),
        ("train.agent_func_path", "class Agent: ...\n", "defines no AgentExecutor"),
    ],
)
def test_a_reward_file_that_cannot_be_loaded(good, tmp_path, capsys, flag, text, says):
    path = tmp_path / "own.py"
    path.write_text(text)
    assert f"--{flag} {path}: {says}" in refused(capsys, {**good, flag: str(path)})


def test_a_cluster_that_is_gone_is_said_at_once(good, capsys, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
    status = train_rpg.main(argv(good), launch=lambda args: pytest.fail("it was launched"))
    assert (status, capsys.readouterr().err) == (
        2,
        f"train_rpg: RAY_ADDRESS=127.0.0.1:{port}: no Ray cluster answers there (Connection refused); start it, or "
        "unset RAY_ADDRESS\n",
    )


def test_a_cache_that_is_no_directory(good, tmp_path, capsys, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("HF_HOME", str(tmp_path / "file" / "cache"))
    assert train_rpg.main(argv(good)) == 2
    assert "is a file; set it to another directory" in capsys.readouterr().err
