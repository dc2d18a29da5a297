"""Output files of prepare_data: train.jsonl, validation.jsonl and DATA.md, each complete or absent."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from rpg_openrlhf.problems.pipeline import ORDER, Counts
from rpg_openrlhf.problems.prompt import render_prompt
from rpg_openrlhf.problems.reading import sha256
from rpg_openrlhf.problems.rows import Row

TRAIN, VALIDATION, REPORT = "train.jsonl", "validation.jsonl", "DATA.md"


class Written(NamedTuple):
    name: str
    rows: int
    bytes: int
    sha256: str


def partial(path: Path) -> Path:
    """Temporary name of a file while it is written. A file under its own name is complete."""
    return path.with_name(path.name + ".partial")


def write_rows(path: Path, rows: list[Row], raw: bool) -> Written:
    """Write a file under its temporary name, with the columns that configs/base.yaml names: prompt and gold answer.

    The validation file has a benchmark's columns too, for evaluation.run. raw: the prompt is the problem alone.
    """
    with partial(path).open("w", encoding="utf-8") as file:
        for row in rows:
            prompt = row.text if raw else render_prompt(row.text)
            columns = {"id": row.id, "input": prompt, "label": row.answer}
            if path.name == VALIDATION:
                columns |= {"problem": row.text, "answer": row.answer}
            file.write(json.dumps(columns, ensure_ascii=False) + "\n")
    return Written(path.name, len(rows), partial(path).stat().st_size, sha256(partial(path)))


def publish(folder: Path, files: Iterable[Written], report: str) -> None:
    """Rename the files, DATA.md last because it lists the hashes of the others. Remove an older validation.jsonl."""
    partial(folder / REPORT).write_text(report, encoding="utf-8")
    names = [each.name for each in files]
    if VALIDATION not in names:
        (folder / VALIDATION).unlink(missing_ok=True)
    for name in (*names, REPORT):
        partial(folder / name).replace(folder / name)


def remove_partial(folder: Path) -> None:
    """Remove temporary files of an interrupted run."""
    for name in (TRAIN, VALIDATION, REPORT):
        partial(folder / name).unlink(missing_ok=True)


def report(title: str, facts: list[tuple[str, str]], counts: Counts, files: Iterable[Written]) -> str:
    """Text of DATA.md: sources of the rows, dropped rows by reason, and the files written."""
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
    """Reasons with their counts, in the order in which they are applied; bad rows first."""
    bad = sorted(reason for reason in counts.dropped if reason not in ORDER)
    return [(reason, counts.dropped[reason]) for reason in (*bad, *ORDER) if counts.dropped[reason]]
