"""Samples that a report carries in full, and how much of each: bounded, whatever the run has."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
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

Key = tuple[str, str, int]


@dataclass
class Lengths:
    """Tokens of a benchmark's responses, right ones and others."""

    right: list[int] = field(default_factory=list)
    wrong: list[int] = field(default_factory=list)


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
    chosen: list[list[list[dict[str, Any]]]] = []
    total = 0
    for run in runs:
        graded, lengths[run.label] = _graded(run)
        total += sum(len(rows) for rows in graded.values())
        picked = [_pick(rows, FITS[0][0]) for rows in graded.values()]
        texts = _texts(run, {_key(row) for rows in picked for row in rows})
        chosen.append([[row | texts.get(_key(row), {"text": ""}) for row in rows] for rows in picked])
    for count, longest in FITS:
        data = _data(runs, chosen, count, longest)
        if len(script_json(data)) <= budget:
            break
    else:
        data = _shortened(data, budget)
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
        of = lengths.setdefault(row["benchmark"], Lengths())
        (of.right if row["correct"] else of.wrong).append(row["tokens"])
    return problems, lengths


def _pick(rows: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    firsts: dict[str, dict[str, Any]] = {}
    for row in rows:
        firsts.setdefault(row["reason"], row)
    first = list(firsts.values())
    return (first + [row for row in rows if not any(row is chosen for chosen in first)])[:count]


def _texts(run: Run, wanted: set[Key]) -> dict[Key, dict[str, Any]]:
    """Text and seed of the wanted samples; the middle of a long text is left out at once, to keep memory small."""
    lengths = {}
    for row in jsonl(run.folder / "samples.jsonl"):
        if _key(row) in wanted:
            lengths[_key(row)] = {"text": cut(row["text"], LONGEST), "seed": row.get("seed")}
    return lengths


def cut(text: str, longest: int) -> str:
    """A third from the beginning, two thirds from the end, where the answer is, and a note between them."""
    if len(text) <= longest:
        return text
    head, tail = longest // 3, longest - longest // 3
    gone = len(text) - head - tail
    return f"{text[:head]}\n\n[… {gone:,} characters left out here; samples.jsonl has them …]\n\n{text[-tail:]}"


def _data(runs: Sequence[Run], chosen: list[list[list[dict[str, Any]]]], count: int, longest: int) -> dict[str, Any]:
    """Runs, problems and samples by their places in lists, so that nothing is said twice."""
    places: dict[str, int] = {}
    problems, samples = [], []
    for number, (run, of_run) in enumerate(zip(runs, chosen, strict=True)):
        asked = {(row["benchmark"], row["problem"]): row for row in jsonl(run.folder / "problems.jsonl")}
        for rows in of_run:
            key = (rows[0]["benchmark"], rows[0]["problem"])
            problem = _problem(key, asked.get(key, {}))
            place = places.setdefault(json.dumps(problem), len(problems))
            if place == len(problems):
                problems.append(problem)
            for row in sorted(rows[:count], key=lambda row: row["sample"]):
                samples.append({"run": number, "problem": place, **_sample(row, longest)})
    return {"runs": [run.label for run in runs], "verdicts": VERDICTS, "problems": problems, "samples": samples}


def _problem(key: tuple[str, str], row: dict[str, Any]) -> dict[str, Any]:
    prompt = row.get("prompt", "")
    if not isinstance(prompt, str):
        prompt = "\n\n".join(f"[{message.get('role')}]\n{message.get('content')}" for message in prompt)
    golds = [str(gold) for gold in row.get("golds") or [row.get("gold", "")]]
    return {"benchmark": key[0], "id": key[1], "golds": [cut(g, 500) for g in golds[:8]], "prompt": cut(prompt, 6_000)}


def _sample(row: dict[str, Any], longest: int) -> dict[str, Any]:
    kept = {key: row.get(key) for key in ("sample", "seed", "correct", "strict", "reason", "tokens", "finish_reason")}
    answers = {
        key: cut(row[key], 500) if row.get(key) is not None else None for key in ("extracted", "strict_extracted")
    }
    return kept | answers | {"text": cut(row["text"], longest)}


def _shortened(data: dict[str, Any], budget: int) -> dict[str, Any]:
    """The first samples that fit, where even the smallest choice does not."""
    room = budget - len(script_json(data | {"samples": []}))
    kept = []
    for sample in data["samples"]:
        room -= len(script_json(sample)) + 1
        if room < 0:
            break
        kept.append(sample)
    return data | {"samples": kept}


def _note(carried: int, total: int, count: int, longest: int) -> str:
    if carried == total and longest == LONGEST:
        return f"All {total:,} samples of these runs are here."
    return (
        f"{carried:,} of {total:,} samples are here: at most {count} for each problem and run, one of each verdict "
        f"first, then in the order of samples; the middle of texts beyond {longest:,} characters is left out. "
        "samples.jsonl and graded.jsonl hold all of them."
    )
