"""Where a benchmark's rows come from: a JSONL file, or a dataset of the Hugging Face hub."""

import hashlib
import json
from pathlib import Path
from typing import Any

from evaluation.problems.benchmarks import Benchmark, BenchmarkError, Source


def from_file(path: Path) -> Source:
    """Every line with its place, FILE:LINE. BenchmarkError if it cannot be read or a line is no JSON object."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise BenchmarkError(f"{path} does not exist: --data-dir must hold NAME.jsonl") from None
    except OSError as error:
        raise BenchmarkError(f"{path}: {error.strerror or error}") from None
    rows = []
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if not line.strip():
            continue
        place = f"{path}:{number}"
        try:
            row = json.loads(line)
        except UnicodeDecodeError:
            raise BenchmarkError(f"{place} is not UTF-8") from None
        except (ValueError, RecursionError) as error:
            raise BenchmarkError(f"{place} is not JSON ({error})") from None
        if not isinstance(row, dict):
            raise BenchmarkError(f"{place} is not a JSON object with a problem and an answer")
        rows.append((place, row))
    return Source(rows, str(path), None, hashlib.sha256(content).hexdigest())


def from_hub(benchmark: Benchmark) -> Source:
    """The rows of one split at a resolved commit. BenchmarkError in one line when they cannot be had."""
    mend = f"or put {benchmark.name}.jsonl into a folder and give --data-dir FOLDER"
    try:
        # Imported late: they are slow, and files need neither.
        from datasets import load_dataset
        from huggingface_hub import HfApi
    except ImportError:
        raise BenchmarkError(f"{benchmark.name}: reading the hub needs `pip install datasets`, {mend}") from None
    wanted = benchmark.revision or "main"
    try:
        commit = HfApi().dataset_info(benchmark.hub_id or "", revision=wanted).sha or wanted
    except Exception:  # offline: what an earlier run left in the cache may still do
        commit = wanted
    try:
        data: Any = load_dataset(benchmark.hub_id or "", benchmark.config, split=benchmark.split, revision=commit)
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
        raise BenchmarkError(f"{benchmark.hub_id}@{wanted} cannot be loaded ({reason}): go online, {mend}") from None
    digest = hashlib.sha256()
    rows = []
    for number, row in enumerate(data, start=1):
        kept = {key: cell for key, cell in row.items() if not key.startswith("image")}
        digest.update(json.dumps(kept, sort_keys=True, default=str).encode() + b"\n")
        rows.append((f"{benchmark.hub_id}:{number}", kept))
    return Source(rows, f"{benchmark.hub_id}@{wanted}", commit, digest.hexdigest(), is_hub=True)
