"""A run's checkpoints on disk: which are complete, which to keep, what has changed since. Files only, no models.

    <ckpt.path>/_actor/<tag>/   a step's whole state; <tag> is global_step12 or best_global_step12
    <ckpt.path>/_critic/<tag>/  the critic's, where there is one
    <ckpt.path>/<tag>_hf/       the policy as a Hugging Face model (--ckpt.save_hf)

Each is written under a hidden name and renamed when complete, <tag>_hf before _actor/<tag>. `checkpoint.json` lists
its files and their sizes, so that a checkpoint damaged later is skipped. With a critic both parts must be complete.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

ACTOR, CRITIC = "_actor", "_critic"
MANIFEST = "checkpoint.json"
PLACES = "places_rank{}.json"  # which weights a rank's optimizer file holds (resharding.py)
SHARDED = (1, 2, 3)  # ZeRO stages whose checkpoints other ranks can load
WRITING = ".writing"  # begins hidden names, which lists of checkpoints leave out, the evaluation's too
FINISHED = "finished.json"
GOING_ON = "going_on"  # the evaluation reads it
FORMAT = 1


class Checkpoint(NamedTuple):
    folder: Path
    step: int  # rollouts trained on
    record: dict[str, Any]  # `checkpoint.json`

    @property
    def best(self) -> bool:
        """True if it is kept for its evaluation score, at any age."""
        return self.folder.name.startswith("best")


def seal(folder: Path, step: int, record: dict[str, Any]) -> None:
    """Write the list of files in `folder` and flush them to disk. Call it when all ranks have written.

    Raise OSError if a file cannot be written.
    """
    files = {
        str(path.relative_to(folder)): path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()
    }
    content = {"format": FORMAT, "step": step, "files": files, **record}
    (folder / MANIFEST).write_text(json.dumps(content, indent=1), encoding="utf-8")
    for name in (*files, MANIFEST):
        _flush(folder / name)
    _flush(folder)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def publish(written: Path, name: Path) -> None:
    """Rename a complete folder to its final name; it replaces a folder of that name."""
    old = name.with_name(f"{WRITING}_old_{name.name}")
    shutil.rmtree(old, ignore_errors=True)
    if name.exists():
        name.rename(old)
    written.rename(name)
    shutil.rmtree(old, ignore_errors=True)
    _flush(name.parent)


def read(folder: Path) -> Checkpoint | None:
    """The checkpoint in `folder`; None if it is incomplete or damaged."""
    try:
        record = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        files, step = record["files"], int(record["step"])
        if record["format"] != FORMAT or any((folder / name).stat().st_size != size for name, size in files.items()):
            return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    if record.get("critic") and folder.parent.name == ACTOR and read(critic_of(folder)) is None:
        return None
    return Checkpoint(folder, step, record)


def critic_of(folder: Path) -> Path:
    """Folder of the critic that belongs to an actor's checkpoint."""
    return folder.parent.parent / CRITIC / folder.name


def find(path: Path) -> list[Checkpoint]:
    """Complete checkpoints under `--ckpt.path`, oldest step first."""
    folders = [folder for folder in _children(path / ACTOR) if not folder.name.startswith(".")]
    sealed = filter(None, map(read, folders))
    return sorted(sealed, key=lambda each: (each.step, each.best))  # the best is written later, after an evaluation


def newest(path: Path) -> Checkpoint | None:
    """The newest complete checkpoint."""
    return next(reversed(find(path)), None)


def unsealed(path: Path) -> list[str]:
    """Names of checkpoint folders that are incomplete, or that plain OpenRLHF wrote."""
    sealed = {checkpoint.folder for checkpoint in find(path)}
    named = [folder for folder in _children(path / ACTOR) if "global_step" in folder.name]
    return [folder.name for folder in named if folder not in sealed and not folder.name.startswith(".")]


def _children(folder: Path) -> list[Path]:
    try:
        return sorted(child for child in folder.iterdir() if child.is_dir())
    except OSError:
        return []


def size(found: Checkpoint) -> int:
    """Size in bytes, without the critic."""
    return sum(found.record["files"].values())


def superfluous(there: Sequence[Checkpoint], just_written: Path, max_num: int, max_bytes: float) -> list[Checkpoint]:
    """Checkpoints to delete, in upstream's order: without a metric first, then the worst, then the oldest.

    The one just written stays, as the last good one, and so does the best. A new best replaces an older best.
    """
    gone = [c for c in there if c.best and just_written.name.startswith("best") and c.folder != just_written]
    kept = [c for c in there if c not in gone]
    for candidate in sorted((c for c in kept if not c.best and c.folder != just_written), key=_worth):
        regular = sum(not c.best for c in kept)
        if regular <= max(max_num, 1) and sum(map(size, kept)) <= max_bytes:
            break
        kept.remove(candidate)
        gone.append(candidate)
    return gone


def _worth(found: Checkpoint) -> tuple[bool, float, int]:
    metric = found.record.get("metric_value")
    return (metric is not None, metric if metric is not None else 0.0, found.step)


def mark_going_on(path: Path) -> None:
    """Mark in `--ckpt.path` that a run is under way: a final model, if there is one, is of a previous run."""
    (path / FINISHED).unlink(missing_ok=True)
    (path / GOING_ON).touch()


def mark_model_saved(path: Path) -> None:
    """Remove that mark: the final model is now that of the last step."""
    (path / GOING_ON).unlink(missing_ok=True)


def mark_finished(path: Path, record: dict[str, Any]) -> None:
    """Write into `--ckpt.path` that the run of this record is complete."""
    write_json(path / FINISHED, {name: record.get(name, {}) for name in ("flags", "inputs")})


def finished(path: Path) -> dict[str, Any] | None:
    """Record that `mark_finished` wrote; None without one."""
    try:
        return json.loads((path / FINISHED).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def write_json(path: Path, content: Any) -> None:
    """Write the content completely or not at all."""
    part = path.with_name(f"{WRITING}_{path.name}")
    part.write_text(json.dumps(content), encoding="utf-8")
    part.replace(path)
