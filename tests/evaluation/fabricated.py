"""Run folders and series as the sampler, the grader and the summary leave them: made up, with hostile texts."""

import json
import random
from dataclasses import dataclass
from math import comb, sqrt
from pathlib import Path
from typing import Any

HOSTILE = (
    "</script><script>window.pwned=1;document.title='pwned'</script>\nAnswer: 1",
    "<img src=x onerror=\"window.pwned=1;document.title='pwned'\">\nAnswer: </td><img src=x onerror=window.pwned=1>",
    "<!-- <script> ]]> --!> {{ 7*7 }} {% raw %} ${7*7}\nAnswer: <!--",
    "\u202egnp.exe\u202c \u2066bidi\u2069 e\u0301 \U0001f469\u200d\U0001f52c 中文 \ud800\nAnswer: \u202e21",
    "NUL \x00 here, bell \x07, escape \x1b[31m, delete \x7f\nAnswer: \x00",
    "\\end{document}\\input{/etc/passwd} $\\frac{1}{2}$ & % # _ ^ ~ \\\\\nAnswer: \\frac{1}{2}",
    "x" * 1_000_000 + " THE END OF A LONG LINE\nAnswer: 7",
    "[a](javascript:window.pwned=1) | `code` **bold**\nAnswer: |",
)


@dataclass(frozen=True)
class Made:
    """How many problems and samples a benchmark has, and how good the model is at it (0 to 1)."""

    problems: int
    skill: float


PAPER = {"aime24": Made(30, 0.4), "aime25": Made(30, 0.3), "amc23": Made(40, 0.8)}


def write_run(
    folder: Path,
    label: str = "rpg-urkl",
    benchmarks: dict[str, Made] | None = None,
    n: int = 8,
    seed: int = 0,
    step: int | None = None,
    hostile: bool = False,
    no_answer: float = 0.05,
    truncated: float = 0.05,
    contaminated: bool = False,
    keep: float = 1.0,
) -> Path:
    """A complete run folder; `keep` below 1 leaves samples out, so that the run is incomplete."""
    made = PAPER if benchmarks is None else benchmarks
    chance = random.Random(f"{label} {seed} {step}")
    settings = _settings(label, made, n, step)
    problems, samples, graded = [], [], []
    for name, size in made.items():
        for index in range(size.problems):
            problem = f"{name}-I-{index + 1:02d}"
            hardness = random.Random(problem).random()
            problems.append(_problem(name, problem, index, hostile))
            solve = min(1.0, max(0.0, size.skill + 0.9 * (0.5 - hardness)))
            for number in range(n):
                if chance.random() <= keep:
                    sample, verdict = _sample(chance, solve, no_answer, truncated)
                    key = {"benchmark": name, "problem": problem, "sample": number}
                    if hostile and index < len(HOSTILE) and number == 0:
                        sample["text"] = HOSTILE[index]
                        verdict["extracted"] = HOSTILE[index].rsplit("Answer: ", 1)[1]
                        verdict |= {"reason": "wrong", "correct": False, "strict": False}
                    samples.append(key | {"seed": chance.getrandbits(31)} | sample)
                    graded.append(
                        key | verdict | {k: sample[k] for k in ("tokens", "finish_reason")} | {"grader": "1"}
                    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "settings.json").write_text(json.dumps(settings))
    for name, rows in (("problems", problems), ("samples", samples), ("graded", graded)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "votes.json").write_text(json.dumps(_votes(graded)))
    (folder / "results.json").write_text(json.dumps(_results(settings, graded, contaminated)))
    if contaminated:
        (folder / "contamination.json").write_text(json.dumps({"amc23": {"exact": 28}}))
    return folder


def write_series(
    folder: Path,
    label: str = "RPG-URKL",
    steps: tuple[int, ...] = (10, 20, 30, 40),
    failed: tuple[int, ...] = (),
    log: bool = True,
    **options: Any,
) -> Path:
    """OUT with a run folder a step, series.json and a training log beside it."""
    rows = []
    made = options.pop("benchmarks", PAPER)
    for step in steps:
        path = folder / f"step_{step:06d}"
        status = "failed" if step in failed else "done"
        rows.append({"step": step, "path": f"/ckpt/{step}", "folder": str(path), "status": status})
        rows[-1]["error"] = "config.json is not JSON" if status == "failed" else None
        if status == "done":
            better = {k: Made(v.problems, v.skill * (0.5 + step / 2 / max(steps))) for k, v in made.items()}
            write_run(path, label, better, step=step, **options)
    folder.mkdir(parents=True, exist_ok=True)
    if log:
        write_training_log(folder / "metrics.jsonl", max(steps), label)
    path = str(folder / "metrics.jsonl") if log else None
    content = {"run_dir": "/run", "label": label, "training_log": path, "checkpoints": rows}
    (folder / "series.json").write_text(json.dumps(content))
    return folder


def write_training_log(path: Path, steps: int, seed: str = "") -> Path:
    """A metrics.jsonl with a start line, an evaluation, a step written twice and a torn last line."""
    chance = random.Random(seed)
    rows: list[dict[str, Any]] = [{"kind": "start", "rollouts": steps}]
    for step in range(1, steps + 1):
        share = step / steps
        row = {"kind": "train", "step": step, "reward": share - 0.5 + chance.gauss(0, 0.05)}
        row |= {
            "entropy_loss": 0.6 - 0.4 * share + chance.gauss(0, 0.01),
            "response_length": 600 + 900 * share + chance.gauss(0, 40),
        }
        rows.append(row)
    rows.insert(2, {"kind": "train", "step": 1, "reward": 99.0, "entropy_loss": 99.0, "response_length": 9})
    rows.append(rows[1])
    rows.append({"kind": "eval", "step": steps, "eval_accuracy": 0.5})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"kind": "train", "st')
    return path


def _settings(label: str, made: dict[str, Made], n: int, step: int | None) -> dict[str, Any]:
    return {
        "model": {
            "name": "org/model-4b", "hash": f"{label} {step}".encode().hex(), "step": step, "kind": "checkpoint",
            "checkpoint": "/ckpt",
        },
        "sampling": {
            "temperature": 1.0, "top_p": 1.0, "top_k": -1, "max_tokens": 4096, "seed": 7, "dtype": "bfloat16",
            "max_model_len": None,
        },
        "prompt": {
            "style": "dapo", "chat_template": True, "system": None, "template": "Solve it.\n{problem}\n<b>Answer:</b>",
            "template_hash": "cd" * 32,
        },
        "n": n,
        "limit": None,
        "benchmarks": {
            name: {
                "source": f"hub/{name}@main", "revision": "0123456", "sha256": "ef" * 32, "rows": size.problems,
                "rows_used": size.problems, "answer_type": "integer",
            }
            for name, size in made.items()
        },
        "method": None,
        "label": label,
    }  # fmt: skip


def _problem(name: str, problem: str, index: int, hostile: bool) -> dict[str, Any]:
    text = f"Find the value of $x_{{{index}}}$." + (" </script><b onclick=alert(1)>" if hostile else "")
    prompt: Any = [{"role": "user", "content": f"Solve it.\n{text}"}] if index % 2 else f"Solve it.\n{text}"
    return {
        "benchmark": name, "problem": problem, "text": text, "gold": str(index), "golds": [str(index)],
        "tolerance": None, "multiple": False, "prompt": prompt,
    }  # fmt: skip


def _sample(chance: random.Random, solve: float, no_answer: float, truncated: float) -> tuple[dict, dict]:
    draw = chance.random()
    correct = chance.random() < solve
    tokens = int(min(4095, chance.lognormvariate(6.6 if correct else 7.1, 0.5)))
    reason, finish = ("correct" if correct else "wrong"), "stop"
    if draw < truncated:
        reason, finish, tokens, correct = "truncated", "length", 4096, False
    elif draw < truncated + no_answer:
        reason, correct = "no_answer", False
    answer = {"correct": "12", "wrong": str(chance.choice((3, 4, 5)))}.get(reason)
    text = f"Let us think about it {'step by step, ' * (tokens // 60)}and so on." + (
        f"\nAnswer: {answer}" if answer else ""
    )
    strict = correct and chance.random() < 0.9
    verdict = {
        "correct": correct, "strict": strict, "reason": reason, "extracted": answer,
        "strict_extracted": answer if strict else None,
    }  # fmt: skip
    return {"text": text, "tokens": tokens, "finish_reason": finish}, verdict


def _votes(graded: list[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, dict[str, Any]] = {}
    for row in graded:
        of = found.setdefault(row["benchmark"], {}).setdefault(
            row["problem"],
            {"n": 0, "correct": 0, "strict": 0, "no_answer": 0, "truncated": 0, "timeout": 0, "groups": {}},
        )
        of["n"] += 1
        of["correct"] += row["correct"]
        of["strict"] += row["strict"]
        of["no_answer"] += row["reason"] in ("no_answer", "truncated")
        of["truncated"] += row["finish_reason"] == "length"
        if row["extracted"] is not None:
            group = of["groups"].setdefault((row["extracted"], row["correct"]), 0)
            of["groups"][(row["extracted"], row["correct"])] = group + 1
    for problems in found.values():
        for of in problems.values():
            groups = sorted(of["groups"].items(), key=lambda item: -item[1])
            of["groups"] = [{"answer": a, "count": k, "correct": right} for (a, right), k in groups]
            top = [right for (_, right), k in groups if k == groups[0][1]]
            of["majority"] = sum(top) / len(top) if top else 0.0
    return {"grader": "1", "benchmarks": found}


def _score(rates: list[float], runs: float) -> dict[str, float]:
    mean = sum(rates) / len(rates)
    wide = 1.96 * sqrt(sum((rate - mean) ** 2 for rate in rates)) / len(rates)
    return {
        "value": mean, "low": max(0.0, mean - wide), "high": min(1.0, mean + wide),
        "run_low": max(0.0, mean - runs), "run_high": min(1.0, mean + runs),
    }  # fmt: skip


def _results(settings: dict[str, Any], graded: list[dict[str, Any]], contaminated: bool) -> dict[str, Any]:
    planned = sum(row["rows_used"] for row in settings["benchmarks"].values()) * settings["n"]
    found = {name: _benchmark(name, settings, graded, contaminated) for name in settings["benchmarks"]}
    return {
        "settings": settings,
        "provenance": {
            "versions": {"vllm": "0.9", "torch": "2.7", "python": "3.11"}, "wall_seconds": 812.5,
            "tokens_per_second": 15234.2, "machine": {"system": "Linux", "gpus": []},
        },
        "complete": len(graded) == planned, "planned": planned, "samples": len(graded), "benchmarks": found,
    }  # fmt: skip


def _benchmark(name: str, settings: dict, graded: list[dict], contaminated: bool) -> dict[str, Any]:
    rows = [row for row in graded if row["benchmark"] == name]
    votes = _votes(rows)["benchmarks"][name]
    of, planned = list(votes.values()), settings["benchmarks"][name]["rows_used"] * settings["n"]
    least = min(row["n"] for row in of)
    ks = [k for k in (2**power for power in range(12)) if k <= least]
    tokens = sorted(row["tokens"] for row in rows)
    rates = {"no_answer": sum(r["no_answer"] for r in of) / len(rows), "timeout": 0.0}
    rates["truncated"] = sum(row["truncated"] for row in of) / len(rows)
    clean = {"problems": len(of) // 2, "mean": _score([r["correct"] / r["n"] for r in of[::2]], 0.03)}
    score = {k: [1 - comb(r["n"] - r["correct"], k) / comb(r["n"], k) for r in of] for k in ks}
    quantiles = {f"q{q:02d}": tokens[len(tokens) * q // 100] for q in (5, 25, 75, 95)}
    alike = {p: {key: r[key] for key in ("n", "correct", "strict", "majority")} for p, r in votes.items()}
    return {
        "problems": len(of), "samples": len(rows), "planned": planned, "n_min": least,
        "n_max": max(r["n"] for r in of),
        "mean": _score([r["correct"] / r["n"] for r in of], 0.02),
        "strict": _score([r["strict"] / r["n"] for r in of], 0.02),
        "pass@k": {str(k): _score(score[k], 0.03) for k in ks},
        "best@k": {str(k): _score([1 - (1 - r["correct"] / r["n"]) ** k for r in of], 0.03) for k in ks},
        "majority": _score([r["majority"] for r in of], 0.04),
        "tokens": quantiles
        | {"mean": sum(tokens) / len(tokens), "max": tokens[-1], "median": tokens[len(tokens) // 2]},
        **rates,
        "warnings": [f"{v:.0%} of samples: {k}" for k, v in rates.items() if v > 0.2],
        "clean": clean if contaminated and name == "amc23" else None,
        "per_problem": {p: r | {"tokens": 900.0} for p, r in alike.items()},
    }  # fmt: skip
