"""Evaluated models below the folders a user names: single runs, and series of checkpoints."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

DEPTH = 3  # levels below a named folder that are searched


@dataclass(frozen=True, eq=False)
class Run:
    """One evaluated model. `step` is None outside a series and for a final model of unknown step."""

    folder: Path
    label: str
    step: int | None
    results: dict[str, Any]

    @property
    def when(self) -> str:
        """Text of the step, or "final" if it is unknown."""
        return "final" if self.step is None else f"step {self.step}"

    @property
    def benchmarks(self) -> dict[str, dict[str, Any]]:
        """Entries of results.json by benchmark, in its order; benchmarks without a sample are left out."""
        rows = self.results["benchmarks"]
        return {name: row for name, row in rows.items() if row["samples"] and row["mean"]["value"] is not None}


@dataclass(frozen=True)
class Series:
    """Evaluated checkpoints of one training run in step order, and those without numbers (`failed`)."""

    folder: Path
    label: str
    runs: tuple[Run, ...]
    failed: tuple[dict[str, Any], ...]
    training_log: Path | None

    def positions(self, logged: float = 0) -> list[float]:
        """Steps of the checkpoints; a final model of unknown step is placed after all known and logged ones."""
        known = [run.step for run in self.runs if run.step is not None]
        end = max([logged, *(step + 1 for step in known)], default=1)
        return [float(end if run.step is None else run.step) for run in self.runs]


@dataclass(frozen=True)
class Found:
    """Runs and series of a report; labels are unique over both."""

    runs: tuple[Run, ...]
    series: tuple[Series, ...]
    empty: tuple[Path, ...] = ()  # runs without a sample

    @property
    def all_runs(self) -> tuple[Run, ...]:
        """Single runs, then every checkpoint of every series."""
        return (*self.runs, *(run for series in self.series for run in series.runs))

    @property
    def ends(self) -> tuple[Run, ...]:
        """Single runs, then the first and the last checkpoint of every series."""
        return (*self.runs, *(run for s in self.series for run in dict.fromkeys((s.runs[0], s.runs[-1]))))

    @property
    def finals(self) -> tuple[Run, ...]:
        """Single runs, then the last checkpoint of every series: one run per method."""
        return (*self.runs, *(series.runs[-1] for series in self.series))


def find(places: Sequence[Path]) -> Found:
    """Read every run and series at or below `places`; ValueError or OSError if one of them holds none."""
    members: dict[Path, Run | Series] = {}
    empty: dict[Path, None] = {}
    for place in places:
        if not place.is_dir():
            raise ValueError(f"{place} is not a folder")
        folders: dict[Path, Path] = {}
        for folder in _folders(place, DEPTH):
            folders.setdefault(folder.resolve(), folder)  # of a folder and links to it, the first counts
        for path, folder in folders.items():
            if path not in members:
                member = read_series(folder) if (folder / "series.json").is_file() else read_run(folder)
                if member is None:
                    empty[folder] = None
                elif isinstance(member, Run) or member.runs:
                    members[path] = member
        if not members.keys() & folders.keys():
            raise ValueError(
                f"{place} holds no evaluated model: run `python -m evaluation.run --output {place}` first"
            )
    series = [member for member in members.values() if isinstance(member, Series)]
    inside = {run.folder.resolve() for member in series for run in member.runs}
    runs = [run for path, run in members.items() if isinstance(run, Run) and path not in inside]
    return replace(_unique(runs, series), empty=tuple(empty))


def _folders(place: Path, depth: int) -> Iterator[Path]:
    """Folders of runs and series at or below `place`; their own subfolders are not searched."""
    if (place / "series.json").is_file() or (place / "settings.json").is_file():
        yield place
    elif depth:
        for child in sorted(place.iterdir()):
            if child.is_dir() and not child.name.startswith("."):
                yield from _folders(child, depth - 1)


def read_run(folder: Path, step: int | None = None) -> Run | None:
    """Run in `folder`; an outdated results.json is computed again. None without results or samples."""
    results = folder / "results.json"
    if _is_stale(folder):
        # Imported late: a report on finished runs needs no graders.
        from evaluation.grading.graded_folder import grade_folder
        from evaluation.scores.results import write_results

        grade_folder(folder)
        summary = write_results(folder)
    elif results.is_file():
        summary = _read_json(results)
    else:
        return None
    if not isinstance(summary, dict) or not isinstance(summary.get("benchmarks"), dict) or "settings" not in summary:
        raise ValueError(f"{results} is not a summary of a run: delete it and grade the folder again")
    return Run(folder, _label(summary["settings"], folder), step, summary)


def _is_stale(folder: Path) -> bool:
    """True if results.json lacks samples, votes or settings, after an interruption or regrading."""
    results, samples = folder / "results.json", folder / "samples.jsonl"
    if not results.is_file():
        return samples.is_file() and samples.stat().st_size > 0
    votes = folder / "votes.json"
    if votes.is_file() and results.stat().st_mtime_ns < votes.stat().st_mtime_ns:
        return True
    summary = _read_json(results)
    return isinstance(summary, dict) and summary.get("settings") != _read_json(folder / "settings.json")


def read_series(folder: Path) -> Series:
    """The checkpoints named by series.json; a checkpoint without numbers is one of `failed`."""
    record = _read_json(folder / "series.json")
    label = _label(record, folder)
    runs, failed = [], []
    for row in sorted(record["checkpoints"], key=lambda row: (row["step"] is None, row["step"] or 0)):
        place = Path(row["folder"])
        place = place if place.is_absolute() and place.is_dir() else folder / place.name
        run = read_run(place, row["step"]) if row["status"] == "done" and place.is_dir() else None
        if run is None or not run.benchmarks:
            failed.append({"step": row["step"], "status": row["status"], "error": row.get("error")})
        else:
            runs.append(run)
    log = record.get("training_log")
    return Series(folder, label, tuple(runs), tuple(failed), None if log is None else folder / log)


def _label(record: dict[str, Any], folder: Path) -> str:
    """Label of a run in one line of printable characters."""
    text = str(record.get("label") or folder.name)
    return "".join(character if character.isprintable() else "\ufffd" for character in text)[:200]


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error})") from None


def _unique(runs: list[Run], series: list[Series]) -> Found:
    """Make labels unique by adding the folder's name, then a number."""
    taken: set[str] = set()

    def name(label: str, folder: Path) -> str:
        choices = (label, f"{label} ({folder.name})", *(f"{label} ({number})" for number in range(2, 10_000)))
        free = next(choice for choice in choices if choice not in taken)
        taken.add(free)
        return free

    named = []
    for member in series:
        label = name(member.label, member.folder)
        members = tuple(replace(run, label=f"{label} {run.when}") for run in member.runs)
        taken.update(run.label for run in members)
        named.append(replace(member, label=label, runs=members))
    return Found(tuple(replace(run, label=name(run.label, run.folder)) for run in runs), tuple(named))


def pick(found: Found, name: str) -> Run:
    """Run with this label or folder; of a series its last checkpoint. ValueError if there is none."""
    for member in (*found.series, *found.all_runs):
        if name == member.label or Path(name).resolve() == member.folder.resolve():
            return member.runs[-1] if isinstance(member, Series) else member
    labels = ", ".join(repr(member.label) for member in (*found.runs, *found.series))
    raise ValueError(f"--compare {name}: no run has that label or folder: choose from {labels}")
