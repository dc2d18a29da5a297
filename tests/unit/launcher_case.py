"""A small run that the launcher accepts, for tests that then spoil one thing."""

import json
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers

from rpg_openrlhf.settings.defaults import complete
from rpg_openrlhf.settings.parser import parse
from rpg_openrlhf.settings.run_settings import Settings

CONFIG = {
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_size": 64, "intermediate_size": 128,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 64,
    "max_position_embeddings": 256, "tie_word_embeddings": False, "rms_norm_eps": 1e-6, "hidden_act": "silu",
}  # fmt: skip


def write_model(folder: Path) -> Path:
    """A model folder with a character tokenizer; its weights are a file nobody reads."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "model.safetensors").touch()
    vocabulary = {token: i for i, token in enumerate(["<unk>", "<eos>", *"0123456789+-= abcdefghijklmnopqrstuvwxyz"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<eos>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(special))
    return folder


def write_rows(path: Path, rows: list) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def good_flags(folder: Path) -> dict[str, str]:
    """Flags of a run on CPU: 32 prompts x 8 samples a rollout, 4 optimizer steps."""
    reward = folder / "reward.py"
    reward.write_text("def reward_func(queries, prompts, labels): ...\n")
    rows = [{"input": f"{i}+{i}=", "label": str(2 * i)} for i in range(100)]
    return {
        "platform": "cpu",
        "actor.model_name_or_path": str(write_model(folder / "model")),
        "data.prompt_dataset": str(write_rows(folder / "train.jsonl", rows)),
        "data.input_key": "input",
        "data.label_key": "label",
        "data.max_len": "96",
        "reward.remote_url": str(reward),
        "rollout.batch_size": "32",
        "rollout.n_samples_per_prompt": "8",
        "rollout.micro_batch_size": "64",
        "train.batch_size": "64",
        "train.micro_batch_size": "64",
        "actor.num_gpus_per_node": "1",
        "ref.num_gpus_per_node": "1",
        "vllm.num_engines": "1",
        "ckpt.output_dir": str(folder / "out"),
    }


def argv(values: dict[str, str | None]) -> list[str]:
    """{flag: words} -> a command line; a None leaves the flag out, an empty string gives it without a value."""
    words = []
    for flag, value in values.items():
        words += [] if value is None else [f"--{flag}", *value.split()]
    return words


def settings_of(*words: str) -> Settings:
    """The settings of a command line, complete and not yet checked."""
    return complete(parse(list(words)))
