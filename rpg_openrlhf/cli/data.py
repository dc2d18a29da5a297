"""Data sets named on the command line: are they there, have they the columns, how many rows, and do the first rows
make prompts.

Reads only the first rows of files; upstream's own `blending_datasets` reads them for training.
"""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from rpg_openrlhf.cli import settle
from rpg_openrlhf.cli.files import hub_is_reachable, looks_like_path
from rpg_openrlhf.config import Refusal

FIRST_ROWS = 100
FILE_KINDS = (".json", ".jsonl", ".csv", ".parquet", ".arrow")


class Source(NamedTuple):
    name: str
    rows: int | None  # None where only loading the whole set would tell
    first_rows: list[dict[str, Any]]


def check_data(v: dict[str, Any]) -> list[Source]:
    """The training set's sources. What it is evaluated on is read whole, in eval_sets.py."""
    if not v["data.prompt_dataset"]:
        raise Refusal(
            "--data.prompt_dataset is missing: give a file (json, jsonl, csv, parquet, arrow), a folder or a hub id"
        )
    _check_template(v)
    sources = check_set("data.prompt_dataset", "data.prompt_split", v)
    probabilities = v["data.prompt_probs"]
    if probabilities is not None:
        try:
            count = len([float(p) for p in probabilities.split(",")])
        except ValueError:
            raise Refusal(f"--data.prompt_probs {probabilities}: must be numbers, one per data set") from None
        if count != len(sources):
            raise Refusal(
                f"--data.prompt_probs {probabilities}: {count} numbers for {len(sources)} data sets; give one each"
            )
    prompts = count_prompts(v, sources)
    if prompts is not None and prompts < v["rollout.batch_size"]:
        raise Refusal(
            f"--rollout.batch_size {v['rollout.batch_size']}: the data set has only {prompts} prompts, less than one "
            "rollout; lower it"
        )
    return sources


def count_prompts(v: dict[str, Any], sources: list[Source]) -> int | None:
    """Prompts in an episode. Mixed by probability, upstream repeats the small sets, so this is then a lower bound."""
    if any(source.rows is None for source in sources):
        return None
    return min(v["data.max_samples"], sum(min(v["data.max_samples"], source.rows or 0) for source in sources))


def _check_template(v: dict[str, Any]) -> None:
    template = v["data.input_template"]
    if template is None or v["data.apply_chat_template"]:
        return
    try:
        template.format("prompt")
    except (KeyError, IndexError, ValueError):
        raise Refusal(
            f"--data.input_template {template!r}: the prompt goes where {{}} stands; write other braces doubled"
        ) from None


def check_set(flag: str, split_flag: str, v: dict[str, Any]) -> list[Source]:
    """The sets of a comma-separated list, their first rows checked."""
    sources = []
    for part in v[flag].split(","):
        name, _, folder = (word.strip() for word in part.partition("@"))
        if v["use_ms"] and not Path(name).exists():  # ModelScope's hub is upstream's to ask
            sources.append(Source(name, None, []))
            continue
        source = open_source(flag, name, folder or None, split_flag, v)
        for number, row in enumerate(source.first_rows, 1):
            check_row(flag, name, number, row, v)
        sources.append(source)
    return sources


def open_source(
    flag: str, name: str, folder: str | None, split_flag: str, v: dict[str, Any], first: int = FIRST_ROWS
) -> Source:
    """The set that `name` means, with its first rows. A Refusal where it cannot be read, or holds none."""
    source = _open(flag, name, folder, split_flag, v, first)
    if not source.first_rows:
        raise Refusal(f"--{flag} {name}: holds no rows")
    return source


def _open(flag: str, name: str, folder: str | None, split_flag: str, v: dict[str, Any], first: int) -> Source:
    path, kind = Path(name), Path(name).suffix
    if kind == ".py" or (path.is_dir() and (path / f"{path.name}.py").exists()):
        if not v["trust_remote_code"]:
            raise Refusal(
                f"--{flag} {name}: is loaded by a Python script of its own; read it, then give --trust_remote_code"
            )
        return _from_library(flag, name, folder, split_flag, v, first)
    if kind in FILE_KINDS:
        if not path.is_file():
            raise Refusal(f"--{flag} {name}: no such file")
        if v[split_flag] != "train":
            raise Refusal(f"--{split_flag} {v[split_flag]}: a single file has only the split train")
        return _from_file(flag, name, kind, first)
    if not path.is_dir() and (path.exists() or looks_like_path(name)):
        raise Refusal(f"--{flag} {name}: no such folder, nor a file of a known kind ({', '.join(FILE_KINDS)})")
    return _from_library(flag, name, folder, split_flag, v, first)


def _from_file(flag: str, name: str, kind: str, first: int) -> Source:
    try:
        if kind == ".parquet":
            import pyarrow.parquet

            file = pyarrow.parquet.ParquetFile(name)
            batches = file.iter_batches(batch_size=min(first, FIRST_ROWS))
            rows = itertools.chain.from_iterable(batch.to_pylist() for batch in batches)
            return Source(name, file.metadata.num_rows, list(itertools.islice(rows, first)))
        if kind == ".arrow":
            from datasets import Dataset

            table = Dataset.from_file(name)
            return Source(name, len(table), list(itertools.islice(table, first)))
        rows = _csv_rows(name) if kind == ".csv" else _json_rows(flag, name, first)
        read = list(itertools.islice(rows, first))
        return Source(name, len(read) + (_count_rest(rows)), read)
    except Refusal:
        raise
    except (OSError, ValueError, csv.Error) as error:  # pyarrow's errors are ValueErrors
        raise Refusal(f"--{flag} {name}: cannot be read: {' '.join(str(error).split())}") from None


def _count_rest(rows: Iterator[Any]) -> int:
    return sum(1 for _ in rows)


def _csv_rows(name: str) -> Iterator[dict[str, Any]]:
    with open(name, encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)


def _json_rows(flag: str, name: str, first: int) -> Iterator[dict[str, Any]]:
    """A JSON array, or one object a line: the first rows parsed, the others only counted."""
    with open(name, encoding="utf-8") as file:
        if file.read(64).lstrip().startswith("["):
            file.seek(0)
            yield from json.load(file)
            return
        file.seek(0)
        seen = 0
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            seen += 1
            if seen > first:
                yield {}
                continue
            try:
                yield json.loads(line)
            except ValueError as error:
                raise Refusal(f"--{flag} {name}: line {number} is not JSON: {error}") from None


def _from_library(flag: str, name: str, folder: str | None, split_flag: str, v: dict[str, Any], first: int) -> Source:
    """Folders and hub ids, through the datasets library as upstream does, streaming where it can."""
    import datasets
    import huggingface_hub

    datasets.disable_progress_bars()
    path, split = Path(name), v[split_flag]
    cached_only = not path.is_dir() and not hub_is_reachable()
    if cached_only:  # both libraries would otherwise spend a minute in retries
        huggingface_hub.constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        if path.is_dir() and any((path / mark).exists() for mark in ("state.json", "dataset_dict.json")):
            data = datasets.load_from_disk(name)
        else:
            data = datasets.load_dataset(name, data_dir=folder, streaming=not cached_only)
        if not isinstance(data, datasets.Dataset):
            if split not in data:
                raise Refusal(f"--{split_flag} {split}: {name} has the splits {', '.join(map(str, data))}")
            data = data[split]
        read = [dict(row) for row in itertools.islice(data, first)]
        counted = data.num_rows if isinstance(data, datasets.Dataset) else _promised_rows(data, split)
        return Source(name, counted if len(read) == first else len(read), read)
    except Refusal:
        raise
    except Exception as error:  # the library raises a dozen kinds, some of its own, for an unreadable set
        if cached_only:
            why = "no such file or folder here, and the hub cannot be reached and has left nothing in the cache"
            raise Refusal(f"--{flag} {name}: {why}") from None
        raise Refusal(f"--{flag} {name}: cannot be loaded: {' '.join(str(error).split())[:200]}") from None


def _promised_rows(data: Any, split: str) -> int | None:
    splits = data.info.splits
    return splits[split].num_examples if splits and split in splits else None


def check_row(flag: str, name: str, number: int, row: Any, v: dict[str, Any]) -> None:
    """A Refusal where upstream could make no prompt of it, or our grader nothing of its answer."""
    where = f"--{flag} {name}: row {number}"
    if not isinstance(row, dict):
        raise Refusal(f"{where} is not an object of columns but a {type(row).__name__}")
    for key_flag in ("data.input_key", "data.label_key"):
        key = v[key_flag]
        if key is not None and key not in row:
            raise Refusal(
                f"--{key_flag} {key}: {name} has no such column in row {number}; it has {', '.join(map(str, row))}"
            )
    prompt = row[v["data.input_key"]]
    if isinstance(prompt, list) and v["data.apply_chat_template"]:
        good = prompt and all(
            isinstance(m, dict) and isinstance(m.get("role"), str) and "content" in m for m in prompt
        )
        if not good:
            raise Refusal(
                f"{where}: {v['data.input_key']!r} must be a text or a list of messages with role and content"
            )
    elif not isinstance(prompt, str):
        hint = "; give --data.apply_chat_template for messages" if isinstance(prompt, list) else ""
        raise Refusal(f"{where}: {v['data.input_key']!r} must be a text, not {type(prompt).__name__}{hint}")
    elif not prompt.strip():
        raise Refusal(f"{where}: {v['data.input_key']!r} is empty")
    _check_label(where, row, v)


def _check_label(where: str, row: dict[str, Any], v: dict[str, Any]) -> None:
    if v["reward.remote_url"] != settle.REWARD_FUNC:
        return  # what another reward makes of its label is its own affair
    if v["data.label_key"] is None:
        raise Refusal(
            "--data.label_key is missing: the default reward grades against it; name the column of the gold answer"
        )
    label = row[v["data.label_key"]]
    if not isinstance(label, str | int | float) or isinstance(label, bool) or not str(label).strip():
        raise Refusal(f"{where}: {v['data.label_key']!r} must be the gold answer, not {label!r}")
