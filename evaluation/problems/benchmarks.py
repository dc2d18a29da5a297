"""The table of benchmarks: `benchmarks.yaml`, a row each, and a user's YAML file beside it."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

SHIPPED = Path(__file__).with_name("benchmarks.yaml")
ANSWER_TYPES = ("integer", "number", "math")
COLUMNS = ("id", "problem", "answer", "tolerance", "golds")


class BenchmarkError(ValueError):
    """A benchmark that cannot be used as it is, in one line."""


@dataclass(frozen=True)
class Benchmark:
    """A row of the YAML. `rows` and `hub_rows` are the expected numbers of rows, None if unknown."""

    name: str
    hub_id: str | None = None
    revision: str | None = None
    split: str = "test"
    config: str | None = None
    columns: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    rows: int | None = None
    hub_rows: int | None = None
    answer_type: str = "math"
    path: Path | None = None
    largest: int | None = None


def known(extra: Path | None = None) -> dict[str, Benchmark]:
    """The shipped rows and those of a user's YAML. BenchmarkError if a row is invalid."""
    shipped, added = _read_yaml(SHIPPED), _read_yaml(extra) if extra else {}
    for name in shipped.keys() & added.keys():
        raise BenchmarkError(f"--benchmark-file {extra}: {name} is a built-in benchmark: give yours another name")
    return shipped | added


def _read_yaml(path: Path) -> dict[str, Benchmark]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BenchmarkError(f"--benchmark-file {path}: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict) or not all(isinstance(row, dict) for row in content.values()):
        raise BenchmarkError(f"--benchmark-file {path}: must map names of benchmarks to rows, see {SHIPPED.name}")
    return {str(name): _row(path, str(name), row) for name, row in content.items()}


def _row(path: Path, name: str, row: dict[str, Any]) -> Benchmark:
    where = f"--benchmark-file {path}: {name}"
    allowed = [spec.name for spec in fields(Benchmark) if spec.name != "name"]
    for key in row:
        if key not in allowed:
            raise BenchmarkError(f"{where}: unknown key {key!r}{nearest(str(key), allowed)}")
    if row.get("answer_type", "math") not in ANSWER_TYPES:
        raise BenchmarkError(f"{where}: answer_type {row['answer_type']!r} is not one of {', '.join(ANSWER_TYPES)}")
    if ("hub_id" in row) == ("path" in row):
        raise BenchmarkError(f"{where}: needs either hub_id or path")
    columns = row.get("columns", {})
    if not isinstance(columns, dict) or not all(isinstance(column, str) for column in columns.values()):
        raise BenchmarkError(f"{where}: columns must map {', '.join(COLUMNS)} to the file's names")
    for key in columns:
        if key not in COLUMNS:
            raise BenchmarkError(f"{where}: columns: unknown {key!r}{nearest(str(key), COLUMNS)}")
    for key in ("rows", "hub_rows", "largest"):
        if not isinstance(row.get(key), int | None) or isinstance(row.get(key), bool):
            raise BenchmarkError(f"{where}: {key} {row[key]!r} must be a whole number")
    place = path.parent / str(row["path"]) if "path" in row else None
    return Benchmark(name, **row | {"columns": MappingProxyType(dict(columns)), "path": place})


def nearest(word: str, words: Any) -> str:
    """The end of a message: which known name was probably meant."""
    near = difflib.get_close_matches(word, list(words), 1)
    return f", did you mean {near[0]!r}?" if near else ""
