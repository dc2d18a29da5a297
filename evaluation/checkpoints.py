"""The Hugging Face checkpoints of a training run in step order, and a check that each is complete."""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

import yaml
from safetensors import SafetensorError, safe_open

_STEP = re.compile(r"(?:^|[_.-])(?:global_?)?(?:step|checkpoint|iter)[_-]?(\d+)", re.IGNORECASE)
_DEPTH = 4  # folders below RUN_DIR


@dataclass(frozen=True)
class Checkpoint:
    """One model of a run; `step` is None for a final model of unknown step."""

    step: int | None
    path: Path

    @property
    def folder(self) -> str:
        """Name of its output folder; the names sort by step."""
        return "final" if self.step is None else f"step_{self.step:06d}"


class MixedModels(ValueError):
    """A folder with models of several runs; the message lists them in one line."""


def find(run_dir: Path) -> list[Checkpoint]:
    """Models of the run below `run_dir` in step order, the final model last.

    If this package's trainer left a record (config.yaml), only models in its folders belong to the run. Without one,
    all models below the folder do. A final model gets the last step of metrics.jsonl. It is left out if that step has
    a checkpoint, which has the same weights, and while a resumed run continues, since it is then outdated.
    MixedModels if the models belong to several runs.
    """
    models = [Checkpoint(_step(path, run_dir), path) for path in _models(run_dir, _record(run_dir))]
    steps = _by_step(run_dir, [checkpoint for checkpoint in models if checkpoint.step is not None])
    finals = [checkpoint for checkpoint in models if checkpoint.step is None]
    if len(finals) > 1:
        raise MixedModels(_listing(run_dir, "several models without a step", [final.path for final in finals]))
    last = last_step(run_dir)
    if finals and last is not None:
        steps.setdefault(last, Checkpoint(last, finals[0].path))
        finals = []
    return [steps[step] for step in sorted(steps)] + finals


def _by_step(run_dir: Path, models: list[Checkpoint]) -> dict[int, Checkpoint]:
    """One model per step. A best checkpoint copies the regular one; of other duplicates only one may be complete."""
    steps: dict[int, Checkpoint] = {}
    for checkpoint in models:
        assert checkpoint.step is not None
        twin = steps.setdefault(checkpoint.step, checkpoint)
        is_best = twin.path.name.startswith("best") or checkpoint.path.name.startswith("best")
        if twin is checkpoint or problem(checkpoint.path):
            continue
        if problem(twin.path) is None:
            if is_best:
                continue
            paths = [twin.path, checkpoint.path]
            raise MixedModels(_listing(run_dir, f"two models of step {checkpoint.step}", paths))
        steps[checkpoint.step] = checkpoint
    return steps


def _record(run_dir: Path) -> dict[str, Path] | None:
    """Folders in the record of the run below `run_dir`; None without a record, MixedModels with several."""
    files = [file for depth in range(3) for file in sorted(run_dir.glob("*/" * depth + "config.yaml"))]
    records = {file.resolve(): record for file in files if (record := _places(file))}
    if len(records) > 1:
        raise MixedModels(_listing(run_dir, "more than one run", [file.parent for file in records], run_dir.resolve()))
    return next(iter(records.values()), None)


def _places(file: Path) -> dict[str, Path] | None:
    """Folders that a config.yaml records, taken relative to the file, so that a moved run is found too."""
    try:
        settings = yaml.safe_load(file.read_text(encoding="utf-8"))
        logs = settings["logger"]["run_dir"]
        places = {"checkpoints": settings["ckpt"]["path"], "model": settings["ckpt"]["output_dir"]}
        return {
            name: Path(os.path.normpath(file.parent / os.path.relpath(place, logs))) for name, place in places.items()
        }
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        return None


def _listing(run_dir: Path, what: str, paths: list[Path], root: Path | None = None) -> str:
    names = ", ".join(os.path.relpath(path, root or run_dir) for path in paths)
    return f"{run_dir} holds {what}: {names}; give the folder of one run"


def finished(run_dir: Path) -> bool:
    """True if the run's final model is complete, so that no further checkpoint will come."""
    record = _record(run_dir)
    finals = [path for path in _models(run_dir, record) if _step(path, run_dir) is None]
    return any(
        problem(path) is None for path in finals if record is None or path.absolute() == record["model"].absolute()
    )


def _models(run_dir: Path, record: dict[str, Path] | None) -> list[Path]:
    """Model folders. With a record only those of its run, and the final model only once the run is over."""
    levels, models = [run_dir], []
    for _ in range(_DEPTH):
        levels = [child for folder in levels for child in _children(folder) if child.is_dir()]
        levels = [folder for folder in levels if not folder.name.startswith(".")]
        models += [folder for folder in levels if _is_model(folder)]
    if record is None:
        return models
    # The trainer writes this file when a run starts and removes it after the final model is saved.
    is_over = not (record["checkpoints"] / "going_on").exists()
    folder, final = record["checkpoints"].absolute(), record["model"].absolute()
    return [path for path in models if (is_over if path.absolute() == final else path.absolute().parent == folder)]


def _is_model(folder: Path) -> bool:
    """True for a configuration, or for a checkpoint's name that should have one; DeepSpeed's own have neither.

    An adapter below the model that it was merged into does not count.
    """
    if (folder / "config.json").is_file():
        return base_model(folder) is None or not (folder.parent / "config.json").is_file()
    named = folder.name.endswith("_hf") or folder.name.startswith("checkpoint-")
    return bool(_STEP.search(folder.name)) and (named or not _children(folder))


def _children(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:  # a running training may prune a checkpoint at any moment
        return []


def _step(path: Path, run_dir: Path) -> int | None:
    for part in reversed(path.relative_to(run_dir).parts):
        match = _STEP.search(part)
        if match:
            return int(match[1])
    return None


def training_log(run_dir: Path) -> Path | None:
    """The trainer's metrics.jsonl of this run; None if there is none."""
    return next(iter(sorted(run_dir.glob("metrics.jsonl")) or sorted(run_dir.glob("*/metrics.jsonl"))), None)


def last_step(run_dir: Path) -> int | None:
    """Last training step in metrics.jsonl; None without one."""
    log = training_log(run_dir)
    steps = []
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if log else ():
        try:
            report = json.loads(line)
            if report.get("kind", "train") == "train":
                steps.append(int(report["step"]))
        except (ValueError, KeyError, TypeError, AttributeError):
            continue  # a line cut off while the run writes
    return max(steps, default=None)


def base_model(path: Path) -> str | None:
    """Folder or hub id of a LoRA adapter's base model; None for a full model."""
    try:
        return json.loads((path / "adapter_config.json").read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def problem(path: Path) -> str | None:
    """Problem of a model folder, in one line; None if its files are complete."""
    if not path.is_dir() or not any(path.iterdir()):
        return f"{path} is {'empty' if path.is_dir() else 'missing'}"
    base = base_model(path)
    if base is None and (path / "adapter_config.json").is_file():
        return f"{path}/adapter_config.json names no base model: probably cut off while written; save it again"
    name = "config.json" if base is None else "adapter_config.json"
    if not (path / name).is_file():
        return f"{path} is not a Hugging Face model: no config.json"
    try:
        json.loads((path / name).read_text(encoding="utf-8"))
    except ValueError:
        return f"{path}/{name} is not JSON: probably cut off while written; save it again"
    if base and Path(base).is_absolute() and not Path(base).is_dir():
        return f"{path} is an adapter of {base}, which does not exist: copy it there, or correct the path in {name}"
    if not any((path / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")):
        return f"{path} holds no tokenizer"
    return _weights_problem(path)


def _weights_problem(path: Path) -> str | None:
    index = next(iter(sorted(path.glob("*.index.json"))), None)
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()) if index else set()
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{index} is not an index of weights: probably cut off while written; save it again"
    missing = sorted(name for name in names if not (path / name).is_file())
    if missing:
        return f"{path} lacks {missing[0]}, which its index names: probably cut off while written; save it again"
    files = [path / name for name in sorted(names)] or sorted(path.glob("*.safetensors")) or sorted(path.glob("*.bin"))
    if not files:
        return f"{path} holds no weights (*.safetensors or *.bin)"
    for file in files:
        if file.suffix != ".safetensors":
            continue
        try:
            with safe_open(file, framework="numpy"):  # compares the header with the file's length
                pass
        except (SafetensorError, OSError) as error:
            return f"{file} is incomplete ({error}): probably cut off while written; save it again"
    return None
