"""Checks of models, reward files, directories and environment variables, before anything starts.

data.py checks data sets.
"""

from __future__ import annotations

import ast
import json
import logging
import os
import socket
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rpg_openrlhf.errors import Refusal
from rpg_openrlhf.problems.hub import hub_is_reachable, looks_like_path
from rpg_openrlhf.settings.paths import DIRECTORIES
from rpg_openrlhf.settings.run_settings import Settings

TOKENIZER_FILES = (
    "tokenizer_config.json", "tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model",
)  # fmt: skip
CONNECT_SECONDS = 5.0
LONGEST_NAME = 255  # bytes of one part of a path, on Linux
NO_TEMPLATE = (
    "--data.apply_chat_template: the model's tokenizer has no chat template; use --data.input_template instead"
)
CODE_FILES = ("config.json", "tokenizer_config.json", "processor_config.json", "preprocessor_config.json")


class Models(NamedTuple):
    policy: dict[str, Any]  # config.json
    reference: dict[str, Any]  # that of --ref.model_name_or_path; empty without one


def check(s: Settings) -> Models:
    """Refuse what cannot be used of models, rewards and directories."""
    check_cache()
    check_ray_address()
    models = check_models(s)
    check_adapters(s)
    check_has_chat_template(s)
    check_reward(s)
    check_directories(s)
    return models


def check_models(s: Settings) -> Models:
    """Check every model that the run would load."""
    name, reference = s.actor.model_name_or_path, s.ref.model_name_or_path
    if not name:
        raise Refusal("--actor.model_name_or_path is missing: give a Hugging Face model folder or hub id")
    config = check_model("actor.model_name_or_path", name, s)
    _check_length(s, config)
    layers, recomputed = config.get("num_hidden_layers"), s.actor.gradient_checkpointing_layers
    if layers and recomputed and recomputed > layers:
        raise Refusal(f"--actor.gradient_checkpointing_layers {recomputed}: the model has {layers} layers")
    models = Models(config, check_model("ref.model_name_or_path", reference, s) if reference else {})
    if s.algo.advantage.estimator == "gae" and s.critic.model_name_or_path:
        check_model("critic.model_name_or_path", s.critic.model_name_or_path, s)
    if not s.reward.remote_url and s.reward.model_name_or_path:
        for reward in s.reward.model_name_or_path.split(","):
            check_model("reward.model_name_or_path", reward, s)
    return models


def check_model(flag: str, name: str, s: Settings) -> dict[str, Any]:
    path = Path(name)
    if not (path.exists() or looks_like_path(name)):
        if s.use_ms:  # only upstream accesses ModelScope's hub
            return {}
        config, tokenizer = _from_hub(flag, name)
        if "auto_map" in {**tokenizer, **config} and not s.trust_remote_code:
            raise _needs_code(flag, name)
        return config
    wanted = "give a Hugging Face model folder"
    if not path.is_dir():
        raise Refusal(f"--{flag} {name}: no such folder; {wanted} or hub id (organisation/name)")
    if not (path / "config.json").is_file():
        raise Refusal(f"--{flag} {name}: contains no config.json; {wanted}")
    for file in CODE_FILES:
        if (path / file).is_file() and "auto_map" in _read_json(flag, path / file) and not s.trust_remote_code:
            raise _needs_code(flag, name)
    if flag.startswith("actor") and not any((path / file).is_file() for file in TOKENIZER_FILES):
        raise Refusal(f"--{flag} {name}: contains no tokenizer; save the tokenizer in the model's folder")
    weights = [*path.glob("*.safetensors"), *path.glob("*.bin")]
    if not (weights or s.dry_run):  # a dry run needs only the shapes, in config.json
        raise Refusal(f"--{flag} {name}: contains no weights (*.safetensors or *.bin); give a complete model folder")
    return _read_json(flag, path / "config.json")


def check_adapters(s: Settings) -> None:
    """Check `--ds.lora.target_modules` against a local model's weights; a hub model's are checked by PEFT later."""
    targets, folder = s.ds.lora.target_modules, Path(s.actor.model_name_or_path)
    if not s.ds.lora.rank or not isinstance(targets, list) or not folder.is_dir():
        return
    modules = {name.split(".")[-2] for file in folder.glob("*.safetensors") for name in _tensor_names(file)}
    unknown = [name for name in targets if name.split(".")[-1] not in modules]
    if modules and unknown:
        known = sorted(name for name in modules if name.endswith("proj") or name.startswith(("fc", "w")))
        names = ", ".join(known or sorted(modules))
        raise Refusal(f"--ds.lora.target_modules {unknown[0]}: the model has no such layer; name some of {names}")


def _tensor_names(file: Path) -> list[str]:
    """Dotted weight names of a safetensors file, from its header: eight bytes of length, then JSON."""
    try:
        with file.open("rb") as stream:
            header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    except (OSError, ValueError):
        return []  # loading the model will refuse a damaged file
    return [name for name in header if name.count(".") and name != "__metadata__"]


def _needs_code(flag: str, name: str) -> Refusal:
    return Refusal(
        f"--{flag} {name}: requires Python code from its own repository (auto_map); read it, then give "
        "--trust_remote_code"
    )


def _read_json(flag: str, path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Refusal(f"--{flag} {path.parent}: {path.name} cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise Refusal(f"--{flag} {path.parent}: {path.name} is not a JSON object")
    return content


def _from_hub(flag: str, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The config and tokenizer config of a hub id, from the cache or the network, without running any of its code."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # importing transformers may warn, but a refusal is one line
        from transformers import PretrainedConfig
        from transformers.models.auto.tokenization_auto import get_tokenizer_config

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    offline = not hub_is_reachable()
    try:
        config, _ = PretrainedConfig.get_config_dict(name, local_files_only=offline)
        tokenizer = get_tokenizer_config(name, local_files_only=offline)
    except (OSError, ValueError) as error:
        why = "the hub cannot be reached and it is not cached" if offline else str(error).split("\n")[0]
        raise Refusal(f"--{flag} {name}: is neither a local folder nor a model on the hub: {why}") from None
    if not config:
        raise Refusal(f"--{flag} {name}: is neither a local folder nor a model on the hub")
    return config, tokenizer


def _check_length(s: Settings, config: dict[str, Any]) -> None:
    text = config.get("text_config") if isinstance(config.get("text_config"), dict) else config
    longest = text.get("max_position_embeddings")
    scaled = any((text.get(key) or {}).get("factor") for key in ("rope_scaling", "rope_parameters"))
    if isinstance(longest, int) and not scaled and s.data.max_len > longest:
        wanted = s.data.max_len
        raise Refusal(f"--data.max_len {wanted}: is more than the model's {longest} positions; lower it")


def check_has_chat_template(s: Settings) -> None:
    """Refuse a local model without a template; a hub model's is checked when its tokenizer is loaded."""
    path = Path(s.actor.model_name_or_path)
    if not (s.data.apply_chat_template and path.is_dir()):
        return
    if any(path.glob("chat_template*")) or (path / "additional_chat_templates").is_dir():
        return
    file = path / "tokenizer_config.json"
    if not (file.is_file() and _read_json("actor.model_name_or_path", file).get("chat_template")):
        raise Refusal(NO_TEMPLATE)


def check_reward(s: Settings) -> None:
    """Refuse a reward or agent file that upstream could not load: every engine or every sample would fail."""
    for flag, name in (("reward.remote_url", "reward_func"), ("train.agent_func_path", "AgentExecutor")):
        for path in filter(None, (s.flags[flag] or "").split(",")):
            is_url = flag == "reward.remote_url" and path.strip().startswith(("http://", "https://"))
            if not is_url and not path.endswith(".py"):
                forms = "a .py file or an http:// address" if flag == "reward.remote_url" else "a .py file"
                raise Refusal(f"--{flag} {path}: give {forms}")
            if not is_url:
                _check_python(flag, Path(path), name)


def _check_python(flag: str, path: Path, name: str) -> None:
    """Check that a user's Python file defines `name`. It is only parsed: its code must not run in the launcher."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    except FileNotFoundError:
        raise Refusal(f"--{flag} {path}: no such file") from None
    except (OSError, ValueError) as error:
        raise Refusal(f"--{flag} {path}: cannot be read: {error}") from None
    except SyntaxError as error:
        raise Refusal(f"--{flag} {path}: line {error.lineno} is not Python: {error.msg}") from None
    defined = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            defined.add(node.name)
        elif isinstance(node, ast.Assign):
            defined |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.Import | ast.ImportFrom):
            defined |= {alias.asname or alias.name for alias in node.names}
    if name not in defined and "*" not in defined:
        raise Refusal(f"--{flag} {path}: defines no {name}; see docs/configuration.md, Rewards of your own")


def _problem(folder: Path) -> str | None:
    """Reason why a directory cannot be created or written, from its nearest existing parent; None if it can."""
    for name in folder.parts[1:]:
        if len(os.fsencode(name)) > LONGEST_NAME:
            return f"{name[:20]}... is longer than the {LONGEST_NAME} bytes that a name may have"
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        return f"{folder} is a file"
    return None if os.access(folder, os.W_OK | os.X_OK) else f"{folder} is not writable"


def check_cache(environ: Mapping[str, str] = os.environ) -> None:
    """Refuse a Hugging Face cache that is not writable: the libraries would fail one by one inside workers."""
    home = environ.get("HF_HOME")
    if home and (problem := _problem(Path(home).expanduser())):
        raise Refusal(f"HF_HOME={home}: {problem}; set it to another directory, or unset it")


def check_ray_address(environ: Mapping[str, str] = os.environ) -> None:
    """Refuse a RAY_ADDRESS where no server listens: Ray itself retries for minutes."""
    address = environ.get("RAY_ADDRESS", "")
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not (colon and port.isdigit()):
        return  # unset, or a keyword of Ray such as auto
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        why = error.strerror or str(error)
        raise Refusal(
            f"RAY_ADDRESS={address}: no Ray cluster answers there ({why}); start it, or unset RAY_ADDRESS"
        ) from None


def check_directories(s: Settings) -> None:
    for flag in DIRECTORIES:
        if s.flags[flag] is not None and (problem := _problem(Path(s.flags[flag]))):
            raise Refusal(f"--{flag} {s.flags[flag]}: {problem}; give another directory")
