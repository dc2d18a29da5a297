"""A run folder as the sampler leaves it, small enough to be checked by hand."""

import json
from pathlib import Path
from typing import Any

GOLDS = {"one": "42", "two": "\\frac{1}{2}"}
TEXTS = {
    ("one", 0): "So it is 42.\nAnswer: 42",
    ("one", 1): "Hence \\boxed{42}.",
    ("one", 2): "Answer: 41",
    ("one", 3): "I do not know",
    ("two", 0): "Answer: 0.5",
    ("two", 1): "Answer: \\frac{1}{2}",
    ("two", 2): "Answer: 1 or 2",
    ("two", 3): "Let us think",
}


def sample_row(problem: str, sample: int, text: str, finish_reason: str = "stop") -> dict[str, Any]:
    return {
        "benchmark": "small", "problem": problem, "sample": sample, "seed": 1, "text": text, "tokens": len(text),
        "finish_reason": finish_reason,
    }  # fmt: skip


def problem_row(problem: str, gold: str) -> dict[str, Any]:
    return {
        "benchmark": "small", "problem": problem, "text": problem, "gold": gold, "golds": [gold], "tolerance": None,
        "multiple": False, "prompt": problem,
    }  # fmt: skip


def samples() -> list[dict[str, Any]]:
    return [
        sample_row(problem, number, text, "length" if text == "Let us think" else "stop")
        for (problem, number), text in TEXTS.items()
    ]


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_run(folder: Path, rows: list[dict[str, Any]] | None = None, n: int = 4, style: str = "dapo") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    small = {
        "source": "small.jsonl",
        "revision": None,
        "sha256": "0",
        "rows": 2,
        "rows_used": 2,
        "answer_type": "math",
    }
    settings = {
        "model": {"name": "m", "hash": "h", "step": None, "kind": "checkpoint", "checkpoint": None},
        "sampling": {"temperature": 1.0, "top_p": 1.0, "top_k": -1, "max_tokens": 64, "seed": 0},
        "prompt": {"style": style, "chat_template": False, "system": None, "template": "", "template_hash": ""},
        "n": n, "limit": None, "benchmarks": {"small": small}, "method": None, "label": "m",
    }  # fmt: skip
    (folder / "settings.json").write_text(json.dumps(settings))
    write_lines(folder / "problems.jsonl", [problem_row(problem, gold) for problem, gold in GOLDS.items()])
    write_lines(folder / "samples.jsonl", samples() if rows is None else rows)
    return folder
