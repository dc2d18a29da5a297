"""Choice of the samples that a report contains; their number and length are bounded for any run."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from evaluation.pages.folders import Run

LONGEST = 20_000  # most characters kept of a response
# Samples per problem and run, and characters per response; the first pair that fits the budget is used.
FITS = ((4, 20_000), (4, 8_000), (3, 6_000), (2, 4_000), (1, 3_000), (1, 1_200))
BUDGET = 9_000_000  # bytes of JSON; the page around it stays below 15 MB
VERDICTS = {
    "correct": "equivalent to the gold answer",
    "wrong": "not equivalent to the gold answer",
    "no_answer": "no answer found: neither an `Answer:` line nor a closed box",
    "ambiguous": "several answers where one is asked for",
    "timeout": "too costly to compare; counted as wrong",
    "truncated": "cut off at the token limit before an answer",
}
KEPT = ("run", "problem", "sample", "seed", "correct", "strict", "reason", "tokens", "finish_reason")

Key = tuple[str, str, int]
Lengths = dict[bool, list[int]]  # tokens of a benchmark's responses, by whether they are correct


@dataclass(frozen=True)
class Carried:
    """Data of the sample browser, ready for JSON; `note` says what is left out."""

    data: dict[str, Any]
    note: str
    lengths: dict[str, dict[str, Lengths]]


def jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a file that may still grow; an unfinished last line is left out."""
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
    """Read the samples of `runs` and choose for each problem: first one of each verdict, then by number."""
    lengths: dict[str, dict[str, Lengths]] = {}
    places: dict[str, int] = {}  # index of a problem, by its JSON
    chosen: list[tuple[int, dict[str, Any]]] = []  # (rank among its problem's and run's samples, sample)
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
    else:  # no pair fits: keep the first samples up to the budget
        sizes = accumulate(len(script_json(sample)) + 1 for sample in data["samples"])
        room = budget - len(script_json(data | {"samples": []}))
        data["samples"] = [sample for sample, size in zip(data["samples"], sizes, strict=True) if size <= room]
    return Carried(data, _note(len(data["samples"]), total, count, longest), lengths)


def script_json(data: Any) -> str:
    """JSON that is safe within a script element: ASCII only, with &, < and > escaped."""
    text = json.dumps(data, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _key(row: dict[str, Any]) -> Key:
    return row["benchmark"], row["problem"], row["sample"]


def _graded(run: Run) -> tuple[dict[tuple[str, str], list[dict[str, Any]]], dict[str, Lengths]]:
    """Verdicts by problem in the order of samples (the last line of a sample counts), and response lengths."""
    rows: dict[Key, dict[str, Any]] = {}
    for row in jsonl(run.folder / "graded.jsonl"):
        known = run.benchmarks.get(row["benchmark"], {}).get("per_problem", {})
        if row["problem"] in known and row["sample"] < run.results["settings"]["n"]:
            rows[_key(row)] = row
    problems: dict[tuple[str, str], list[dict[str, Any]]] = {}
    lengths: dict[str, Lengths] = {}
    order = {
        (name, problem): i for name, row in run.benchmarks.items() for i, problem in enumerate(row["per_problem"])
    }
    for row in sorted(rows.values(), key=lambda row: (row["benchmark"], order[_key(row)[:2]], row["sample"])):
        problems.setdefault(_key(row)[:2], []).append(row)
        lengths.setdefault(row["benchmark"], {True: [], False: []})[bool(row["correct"])].append(row["tokens"])
    return problems, lengths


def _pick(rows: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """First one row of each verdict, then the others in their order; at most `count`."""
    firsts = {row["reason"]: number for number, row in reversed([*enumerate(rows)])}
    order = sorted(range(len(rows)), key=lambda number: (firsts[rows[number]["reason"]] != number, number))
    return [rows[number] for number in order[:count]]


def _texts(run: Run, wanted: set[Key]) -> dict[Key, dict[str, Any]]:
    """Text and seed of the wanted samples; long texts are cut at once to save memory."""
    return {
        _key(row): {"text": cut(row["text"], LONGEST), "seed": row.get("seed")}
        for row in jsonl(run.folder / "samples.jsonl")
        if _key(row) in wanted
    }


def cut(text: str, longest: int) -> str:
    """Cut a long text: a third from its start, a note, and two thirds from its end, where the answer is."""
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
