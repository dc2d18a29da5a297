"""Samples that a report carries in full, and how much of each: bounded, whatever the run has."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from evaluation.pages.folders import Run

LONGEST = 20_000  # characters of a response that are ever kept
# Samples a problem and run, and characters a response: the first pair that fits the budget is taken.
FITS = ((4, 20_000), (4, 8_000), (3, 6_000), (2, 4_000), (1, 3_000), (1, 1_200))
BUDGET = 9_000_000  # bytes of JSON; the page around it stays below 15 MB
VERDICTS = {
    "correct": "equivalent to the gold answer",
    "wrong": "not equivalent to the gold answer",
    "no_answer": "no answer found: neither an `Answer:` line nor a closed box",
    "ambiguous": "several answers where one is asked for",
    "timeout": "grading ran out of time; counted as wrong",
    "truncated": "cut off at the token limit before an answer",
}
KEPT = ("run", "problem", "sample", "seed", "correct", "strict", "reason", "tokens", "finish_reason")

Key = tuple[str, str, int]
Lengths = dict[bool, list[int]]  # tokens of a benchmark's responses, by whether they are correct


@dataclass(frozen=True)
class Carried:
    """The browser's data, ready for JSON, and what a reader must know of what is left out."""

    data: dict[str, Any]
    note: str
    lengths: dict[str, dict[str, Lengths]]


def jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file that may still grow: a last line without its end is left out."""
    if not path.is_file():
        return
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
            except ValueError:
                if not line.endswith(b"\n"):
                    return
                raise ValueError(f"{path}:{number} is not JSON") from None
            yield row


def carry(runs: Sequence[Run], budget: int = BUDGET) -> Carried:
    """Read the samples of `runs` and choose: of each problem one of each verdict first, then by number."""
    lengths: dict[str, dict[str, Lengths]] = {}
    places: dict[str, int] = {}  # of a problem, by its JSON
    chosen: list[tuple[int, dict[str, Any]]] = []  # with the rank of a sample among those of its problem and run
    total = 0
    for number, run in enumerate(runs):
        graded, lengths[run.label] = _graded(run)
        total += sum(map(len, graded.values()))
        picked = {key: _pick(rows, FITS[0][0]) for key, rows in graded.items()}
        texts = _texts(run, {_key(row) for rows in picked.values() for row in rows})
        asked = {(row["benchmark"], row["problem"]): row for row in jsonl(run.folder / "problems.jsonl")}
        for key, rows in picked.items():
            place = places.setdefault(json.dumps(_problem(key, asked.get(key, {}))), len(places))
            for rank, row in sorted(enumerate(rows), key=lambda pair: pair[1]["sample"]):
                text = texts.get(_key(row), {"text": ""})
                chosen.append((rank, row | text | {"run": number, "problem": place}))
    data = {"runs": [run.label for run in runs], "verdicts": VERDICTS, "problems": [*map(json.loads, places)]}
    for count, longest in FITS:
        data["samples"] = [_sample(row, longest) for rank, row in chosen if rank < count]
        if len(script_json(data)) <= budget:
            break
    else:  # the first samples that fit
        sizes = accumulate(len(script_json(sample)) + 1 for sample in data["samples"])
        room = budget - len(script_json(data | {"samples": []}))
        data["samples"] = [sample for sample, size in zip(data["samples"], sizes, strict=True) if size <= room]
    return Carried(data, _note(len(data["samples"]), total, count, longest), lengths)


def script_json(data: Any) -> str:
    """JSON that no text can break out of: ASCII only, and without the characters that HTML acts upon."""
    text = json.dumps(data, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _key(row: dict[str, Any]) -> Key:
    return row["benchmark"], row["problem"], row["sample"]


def _graded(run: Run) -> tuple[dict[tuple[str, str], list[dict[str, Any]]], dict[str, Lengths]]:
    """Verdicts by problem in the order of samples, a later line for one sample replacing the earlier; and lengths."""
    rows: dict[Key, dict[str, Any]] = {}
    for row in jsonl(run.folder / "graded.jsonl"):
        known = run.benchmarks.get(row["benchmark"], {}).get("per_problem", {})
        if row["problem"] in known and row["sample"] < run.results["settings"]["n"]:
            rows[_key(row)] = row
    problems: dict[tuple[str, str], list[dict[str, Any]]] = {}
    lengths: dict[str, Lengths] = {}
    order = {(name, problem): i for name, of in run.benchmarks.items() for i, problem in enumerate(of["per_problem"])}
    for row in sorted(rows.values(), key=lambda row: (row["benchmark"], order[_key(row)[:2]], row["sample"])):
        problems.setdefault(_key(row)[:2], []).append(row)
        lengths.setdefault(row["benchmark"], {True: [], False: []})[bool(row["correct"])].append(row["tokens"])
    return problems, lengths


def _pick(rows: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """One of each verdict first, then in their order."""
    firsts = {row["reason"]: number for number, row in reversed([*enumerate(rows)])}
    order = sorted(range(len(rows)), key=lambda number: (firsts[rows[number]["reason"]] != number, number))
    return [rows[number] for number in order[:count]]


def _texts(run: Run, wanted: set[Key]) -> dict[Key, dict[str, Any]]:
    """Text and seed of the wanted samples; the middle of a long text is left out at once, to keep memory small."""
    return {
        _key(row): {"text": cut(row["text"], LONGEST), "seed": row.get("seed")}
        for row in jsonl(run.folder / "samples.jsonl")
        if _key(row) in wanted
    }


def cut(text: str, longest: int) -> str:
    """A third from the beginning, two thirds from the end, where the answer is, and a note between them."""
    if len(text) <= longest:
        return text
    head, tail = longest // 3, longest - longest // 3
    gone = len(text) - head - tail
    return f"{text[:head]}\n\n[… {gone:,} characters left out here; samples.jsonl has them …]\n\n{text[-tail:]}"


def _problem(key: tuple[str, str], row: dict[str, Any]) -> dict[str, Any]:
    prompt = row.get("prompt", "")
    if not isinstance(prompt, str):
        prompt = "\n\n".join(f"[{message.get('role')}]\n{message.get('content')}" for message in prompt)
    golds = [str(gold) for gold in row.get("golds") or [row.get("gold", "")]]
    return {"benchmark": key[0], "id": key[1], "golds": [cut(g, 500) for g in golds[:8]], "prompt": cut(prompt, 6_000)}


def _sample(row: dict[str, Any], longest: int) -> dict[str, Any]:
    kept = {key: row.get(key) for key in KEPT}
    answers = {key: row.get(key) and cut(row[key], 500) for key in ("extracted", "strict_extracted")}
    return kept | answers | {"text": cut(row["text"], longest)}


def _note(carried: int, total: int, count: int, longest: int) -> str:
    if carried == total and longest == LONGEST:
        return f"All {total:,} samples of these runs are here."
    return (
        f"{carried:,} of {total:,} samples are here: at most {count} for each problem and run, one of each verdict "
        f"first, then in the order of samples; the middle of texts beyond {longest:,} characters is left out. "
        "samples.jsonl and graded.jsonl hold all of them."
    )
