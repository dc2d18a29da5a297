"""Problem sets of a run: read and check every row; a gold answer keeps the text that it has in the file.

The launcher checks the data with the functions that the trainer reads it with.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from rpg_openrlhf.errors import Refusal
from rpg_openrlhf.problems.hub import hub_is_reachable, looks_like_path, reason_of
from rpg_openrlhf.problems.reading import KINDS, rows_of
from rpg_openrlhf.problems.rows import BadRow, label_text
from rpg_openrlhf.problems.set_names import split_names

SPLIT_FLAGS = {"data.prompt_dataset": "data.prompt_split", "eval.dataset": "eval.split"}


class Columns(NamedTuple):
    """Columns to read of a row, by upstream's flags `--data.*`."""

    input_key: str
    label_key: str | None
    image_key: str
    takes_messages: bool  # --data.apply_chat_template
    needs_label: bool  # this package's grader is the reward


def columns_of(data: Any, needs_label: bool) -> Columns:
    """Columns of a row that training reads; `data` is the section of that name of the settings or upstream's flags."""
    return Columns(data.input_key, data.label_key, data.image_key, data.apply_chat_template, needs_label)


class PromptSet(NamedTuple):
    name: str
    rows: list[dict[str, Any]]


def read_sets(flag: str, text: str, split: str, columns: Columns, trust_remote_code: bool) -> list[PromptSet]:
    """Read and check the sets of a comma-separated list. A Refusal names the flag, the file and the line."""
    sets = []
    for name, folder in split_names(text):
        rows = [
            checked_row(f"--{flag} {place}", row, columns)
            for place, row in raw_rows(flag, name, folder, split, trust_remote_code)
        ]
        sets.append(PromptSet(name, rows))
    is_mixed = len({type(row[columns.input_key]) for part in sets for row in part.rows}) > 1
    return [PromptSet(part.name, in_messages(part.rows, columns.input_key)) for part in sets] if is_mixed else sets


def in_messages(rows: list[dict[str, Any]], key: str) -> list[dict[str, Any]]:
    """Convert text prompts to messages, because one column cannot hold texts and messages."""
    return [row | {key: [{"role": "user", "content": row[key]}]} if isinstance(row[key], str) else row for row in rows]


def raw_rows(
    flag: str, name: str, folder: str | None, split: str, trust_remote_code: bool
) -> Iterator[tuple[str, Any]]:
    """Yield (place, row) for every row of a file, a folder or a hub data set; a Refusal if there are none."""
    path, empty = Path(name), True
    if path.suffix == ".py" or (path.is_dir() and (path / f"{path.name}.py").exists()):
        if not trust_remote_code:
            raise Refusal(
                f"--{flag} {name}: is loaded by a Python script of its own; read it, then give --trust_remote_code"
            )
        rows = _from_library(flag, name, folder, split)
    elif path.suffix in KINDS:
        if not path.is_file():
            raise Refusal(f"--{flag} {name}: no such file")
        if split != "train":
            raise Refusal(f"--{SPLIT_FLAGS[flag]} {split}: a single file has only the split train")
        rows = ((f"{name}:{number}", row) for number, row in rows_of(path, f"--{flag}", None))
    elif not path.is_dir() and (path.exists() or looks_like_path(name)):
        problem = "is a file of no known kind" if path.exists() else "no such file or folder"
        raise Refusal(f"--{flag} {name}: {problem}; give a folder, a hub id, or a file of {', '.join(KINDS)}")
    else:
        rows = _from_library(flag, name, folder, split)
    for place, row in rows:
        empty = False
        if isinstance(row, BadRow):
            raise Refusal(f"--{flag} {place} {row}")
        yield place, row
    if empty:
        raise Refusal(f"--{flag} {name}: holds no rows")


def _from_library(flag: str, name: str, folder: str | None, split: str) -> Iterator[tuple[str, Any]]:
    """Rows of a folder or a hub id, read with the datasets library as upstream does."""
    import datasets
    import huggingface_hub

    datasets.disable_progress_bars()
    path = Path(name)
    cached_only = not path.is_dir() and not hub_is_reachable()
    if cached_only:  # both libraries would otherwise spend a minute in retries
        huggingface_hub.constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True  # pyright: ignore[reportAttributeAccessIssue]
    try:
        if path.is_dir() and any((path / mark).exists() for mark in ("state.json", "dataset_dict.json")):
            data = datasets.load_from_disk(name)
        else:
            data = datasets.load_dataset(name, data_dir=folder)
    except Exception as error:  # the library raises a dozen types for an unreadable set
        if cached_only:
            why = "no such file or folder here, and the hub cannot be reached and has left nothing in the cache"
            raise Refusal(f"--{flag} {name}: {why}") from None
        raise Refusal(f"--{flag} {name}: cannot be loaded: {reason_of(error)}") from None
    if not isinstance(data, datasets.Dataset):
        if split not in data:
            raise Refusal(f"--{SPLIT_FLAGS[flag]} {split}: {name} has the splits {', '.join(map(str, data))}")
        data = data[split]
    yield from ((f"{name}: row {number}", dict(row)) for number, row in enumerate(data, start=1))


def checked_row(where: str, row: Any, columns: Columns) -> dict[str, Any]:
    """Columns of a row that training reads; a Refusal if it has no usable prompt or gold answer."""
    if not isinstance(row, dict):
        raise Refusal(f"{where} is not an object of columns but a {type(row).__name__}")
    for flag, key in (("input_key", columns.input_key), ("label_key", columns.label_key)):
        if key is not None and key not in row:
            place = where.partition(" ")[2]  # without the flag that names the set
            raise Refusal(f"--data.{flag} {key}: {place} has no such column; it has {', '.join(map(str, row))}")
    checked = {columns.input_key: _prompt(where, row[columns.input_key], columns)}
    if columns.label_key is not None:
        checked[columns.label_key] = _label(where, row[columns.label_key], columns)
    return checked | {name: row[name] for name in (columns.image_key, "datasource") if row.get(name) is not None}


def _prompt(where: str, prompt: Any, columns: Columns) -> Any:
    if isinstance(prompt, list) and columns.takes_messages:
        if not prompt or not all(
            isinstance(m, dict) and isinstance(m.get("role"), str) and "content" in m for m in prompt
        ):
            raise Refusal(f"{where}: {columns.input_key!r} must be a text or a list of messages with role and content")
    elif not isinstance(prompt, str):
        hint = "; give --data.apply_chat_template for messages" if isinstance(prompt, list) else ""
        raise Refusal(f"{where}: {columns.input_key!r} must be a text, not {type(prompt).__name__}{hint}")
    elif not prompt.strip():
        raise Refusal(f"{where}: {columns.input_key!r} is empty")
    return prompt


def _label(where: str, value: Any, columns: Columns) -> str:
    label = label_text(value)
    if label is None and columns.needs_label:
        raise Refusal(f"{where}: {columns.label_key!r} must be the gold answer, not {value!r}")
    if label is not None:
        return label
    return "" if value is None else json.dumps(value, ensure_ascii=False, default=str)  # for a custom reward
