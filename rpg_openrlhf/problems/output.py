"""Output of preparing: train.jsonl, validation.jsonl and DATA.md, each whole or not there."""

import contextlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from rpg_openrlhf.problems.pipeline import ORDER, Counts
from rpg_openrlhf.problems.prompt import render_prompt
from rpg_openrlhf.problems.reading import sha256
from rpg_openrlhf.problems.rows import Row

TRAIN, VALIDATION, REPORT = "train.jsonl", "validation.jsonl", "DATA.md"
SPOOLS = ("spool", "sifted")


class Written(NamedTuple):
    name: str
    rows: int
    bytes: int
    sha256: str


def names(validation: int) -> tuple[str, ...]:
    return (TRAIN, VALIDATION) if validation else (TRAIN,)


def partial(path: Path) -> Path:
    """The name under which a file is written: one that exists under its own name is whole."""
    return path.with_name(path.name + ".partial")


def written(path: Path) -> Written:
    """Content under the temporary name."""
    with partial(path).open("rb") as file:
        rows = sum(1 for _ in file)
    return Written(path.name, rows, partial(path).stat().st_size, sha256(partial(path)))


def write_rows(folder: Path, rows: Iterable[Row], is_held: Callable[[Row], bool], validation: int, raw: bool) -> None:
    """Every row to the training or the validation file."""
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(partial(folder / name).open("w", encoding="utf-8")) for name in names(validation)]
        for row in rows:
            held = bool(validation) and is_held(row)
            columns = validation_row(row, raw) if held else train_row(row, raw)
            files[held].write(json.dumps(columns, ensure_ascii=False) + "\n")


def publish(folder: Path, validation: int, report: str) -> None:
    """Give the files their names, DATA.md last: it names the hashes of the others. An older validation part goes."""
    partial(folder / REPORT).write_text(report, encoding="utf-8")
    if not validation:
        (folder / VALIDATION).unlink(missing_ok=True)
    for name in (*names(validation), REPORT):
        partial(folder / name).replace(folder / name)


def remove_partial(folder: Path) -> None:
    """Remove the spools, which are all that is left where nothing failed."""
    for name in (*SPOOLS, TRAIN, VALIDATION, REPORT):
        partial(folder / name).unlink(missing_ok=True)


def train_row(row: Row, raw: bool) -> dict[str, str | int]:
    """The columns that configs/base.yaml names: the prompt's text, and the gold answer."""
    return {
        "id": row.id if row.id is not None else "",
        "input": row.text if raw else render_prompt(row.text),
        "label": row.answer,
    }


def validation_row(row: Row, raw: bool) -> dict[str, str | int]:
    """The same for evaluation during training, and a benchmark's columns for evaluation.run."""
    return train_row(row, raw) | {"problem": row.text, "answer": row.answer}


def report(title: str, facts: list[tuple[str, str]], counts: Counts, files: Iterable[Written]) -> str:
    """DATA.md: where the rows come from, what became of each, and what was written."""
    lines = [f"# {title}", "", *[f"- {name}: {value}" for name, value in facts], ""]
    lines += ["| step | rows | left | first places |", "|---|---|---|---|"]
    left = counts.read
    lines.append(f"| read | {counts.read:,} | {left:,} | |")
    for reason, number in in_order(counts):
        left -= number
        places = ", ".join(counts.places[reason])
        lines.append(f"| dropped: {reason} | {number:,} | {left:,} | {places} |")
    if counts.overlaps:
        lines += ["", "Rows that repeat a problem of a benchmark (one row may repeat several):", ""]
        lines += [f"- {name}: {number:,}" for name, number in sorted(counts.overlaps.items())]
    lines += ["", "| file | rows | bytes | sha256 |", "|---|---|---|---|"]
    lines += [f"| {each.name} | {each.rows:,} | {each.bytes} | {each.sha256} |" for each in files]
    return "\n".join(lines) + "\n"


def in_order(counts: Counts) -> list[tuple[str, int]]:
    """Reasons in the order in which they are applied; bad rows first."""
    bad = sorted(reason for reason in counts.dropped if reason not in ORDER)
    return [(reason, counts.dropped[reason]) for reason in (*bad, *ORDER) if counts.dropped[reason]]
