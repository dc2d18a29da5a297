"""Sources of a benchmark's rows: a JSONL file, or a dataset of the Hugging Face hub."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation.problems.benchmarks import Benchmark, BenchmarkError
from rpg_openrlhf.errors import Refusal
from rpg_openrlhf.problems.hub import reason_of
from rpg_openrlhf.problems.reading import rows_of, sha256
from rpg_openrlhf.problems.rows import BadRow


@dataclass(frozen=True)
class Source:
    """Unchecked rows, each with its place for error messages."""

    rows: list[tuple[str, dict[str, Any]]]
    name: str
    revision: str | None
    sha256: str
    is_hub: bool = False


def from_file(path: Path) -> Source:
    """Rows of a file, each with its place FILE:LINE. BenchmarkError for an unreadable file or a bad row."""
    if not path.is_file():
        raise BenchmarkError(f"{path} does not exist: --data-dir must hold NAME.jsonl")
    rows = []
    try:
        for number, row in rows_of(path, "--benchmarks", None):
            if not isinstance(row, dict):
                reason = row if isinstance(row, BadRow) else "is not a JSON object with a problem and an answer"
                raise BenchmarkError(f"{path}:{number} {reason}")
            rows.append((f"{path}:{number}", row))
    except Refusal as refusal:
        raise BenchmarkError(str(refusal)) from None
    return Source(rows, str(path), None, sha256(path))


def from_hub(benchmark: Benchmark) -> Source:
    """The rows of one split at a resolved commit. BenchmarkError in one line if they cannot be loaded."""
    fix = f"or put {benchmark.name}.jsonl into a folder and give --data-dir FOLDER"
    try:
        # Imported late: slow, and not needed for files.
        from datasets import load_dataset
        from huggingface_hub import HfApi
    except ImportError:
        raise BenchmarkError(f"{benchmark.name}: reading the hub needs `pip install datasets`, {fix}") from None
    wanted = benchmark.revision or "main"
    try:
        commit = HfApi().dataset_info(benchmark.hub_id or "", revision=wanted).sha or wanted
    except Exception:  # offline: the cache of a previous run may still have it
        commit = wanted
    try:
        data: Any = load_dataset(benchmark.hub_id or "", benchmark.config, split=benchmark.split, revision=commit)
    except Exception as error:
        raise BenchmarkError(
            f"{benchmark.hub_id}@{wanted} cannot be loaded ({reason_of(error)}): go online, {fix}"
        ) from None
    digest = hashlib.sha256()
    rows = []
    for number, row in enumerate(data, start=1):
        kept = {key: cell for key, cell in row.items() if not key.startswith("image")}
        digest.update(json.dumps(kept, sort_keys=True, default=str).encode() + b"\n")
        rows.append((f"{benchmark.hub_id}:{number}", kept))
    return Source(rows, f"{benchmark.hub_id}@{wanted}", commit, digest.hexdigest(), is_hub=True)
