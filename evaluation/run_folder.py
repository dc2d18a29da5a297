"""Run folder before sampling: its settings, its problems, and checks that it may be resumed."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from evaluation.problems.loading import Loaded
from evaluation.problems.prompting import Prompter
from evaluation.provenance import text_hash
from evaluation.settings import Settings
from evaluation.store import read_json, write_json, write_text


class FolderError(ValueError):
    """The output folder belongs to other settings, in one line."""


def describe(
    settings: Settings, label: str, model: dict[str, Any], prompter: Prompter, loaded: Iterable[Loaded]
) -> dict[str, Any]:
    """Content of settings.json: everything that decides the samples."""
    style = prompter.style
    sampled = ("temperature", "top_p", "top_k", "max_tokens", "seed")
    engine = ("dtype", "max_model_len")  # a server chooses its own
    return {
        "label": label,
        "model": model,
        "sampling": {
            **{name: getattr(settings, name) for name in sampled},
            **{name: None if settings.server else getattr(settings, name) for name in engine},
        },
        "prompt": {
            "style": style.name,
            "chat_template": prompter.chat,
            "system": prompter.system,
            "template": style.template,
            "template_hash": text_hash(style.template),
        },
        "n": settings.n,
        "limit": settings.limit,
        "benchmarks": {
            each.benchmark.name: {
                "source": each.source,
                "revision": each.revision,
                "sha256": each.sha256,
                "rows": each.rows,
                "rows_used": len(each.problems),
                "answer_type": each.benchmark.answer_type,
            }
            for each in loaded
        },
    }


def problem_rows(prompter: Prompter, loaded: Iterable[Loaded]) -> list[dict[str, Any]]:
    """Rows of problems.jsonl: texts, gold answers and rendered prompts."""
    return [
        {
            "benchmark": problem.benchmark,
            "problem": problem.id,
            "text": problem.text,
            "gold": problem.gold,
            "golds": list(problem.golds),
            "tolerance": problem.tolerance,
            "multiple": problem.multiple,
            "prompt": prompter.render(problem.text),
        }
        for each in loaded
        for problem in each.problems
    ]


def prepare(folder: Path, described: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Create or resume the folder. Only added benchmarks and other values of n and limit are allowed."""
    folder.mkdir(parents=True, exist_ok=True)
    before, problems = folder / "settings.json", folder / "problems.jsonl"
    if before.exists():
        old = read_json(before)
        if not isinstance(old, dict) or not {"model", "sampling", "prompt", "benchmarks", "n", "limit"} <= set(old):
            raise FolderError(f"{before} is not the settings of a run: use another folder")
        _refuse_other(folder, old, described)
        kept = {name: row for name, row in old["benchmarks"].items() if name not in described["benchmarks"]}
        for flag in ("n", "limit"):
            if kept and old[flag] != described[flag]:  # both apply to all benchmarks of a folder
                raise FolderError(
                    f"--output {folder} holds {', '.join(kept)} with --{flag} {old[flag]}, not {described[flag]}: "
                    "name all benchmarks, or use another folder"
                )
        described["benchmarks"] = kept | described["benchmarks"]
        before_rows = read_rows(problems)
        _refuse_other_prompts(folder, before_rows, rows)
        rows[:0] = [row for row in before_rows if row["benchmark"] in kept]
    elif (folder / "samples.jsonl").exists():
        raise FolderError(f"--output {folder} holds samples without settings.json: use another folder")
    write_text(problems, "".join(json.dumps(row) + "\n" for row in rows))
    write_json(before, described)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSONL file that was written whole; none if it is not there."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def _refuse_other_prompts(folder: Path, old: list[dict[str, Any]], new: list[dict[str, Any]]) -> None:
    """FolderError if a prompt differs from that of the samples, e.g. because the chat template writes the date."""
    prompts = {(row["benchmark"], row["problem"]): row["prompt"] for row in old}
    for row in new:
        if prompts.get((row["benchmark"], row["problem"]), row["prompt"]) != row["prompt"]:
            raise FolderError(
                f"--output {folder}: the prompt of {row['problem']} is rendered differently from that of the samples "
                "there (does the chat template write the date?): use another folder"
            )


def _refuse_other(folder: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    ours, theirs = _identity(new), _identity(old)
    other = [key for key in ours if key in theirs and ours[key][0] != theirs[key][0]]
    if other:
        differences = [f"{key} {theirs[key][1]} there, {ours[key][1]} now" for key in other[:4]]
        more = [f"and {len(other) - 4} more"] if len(other) > 4 else []
        raise FolderError(
            f"--output {folder} holds samples of other settings ({', '.join(differences + more)}): use another folder"
        )


def _identity(described: dict[str, Any]) -> dict[str, tuple[Any, str]]:
    """Settings that a resumed run must share, each with its text for a message.

    The model is compared by its hash, so that a checkpoint may be moved.
    """
    model, prompt = described["model"], described["prompt"]
    facts = {
        "model": (model["hash"] or model["name"], _named(model["name"], model["hash"])),
        "prompt": (prompt["template_hash"], prompt["style"]),
        "chat-template": (prompt["chat_template"], str(prompt["chat_template"])),
        "system": (prompt["system"], repr(prompt["system"])),
    }
    facts |= {key.replace("_", "-"): (value, str(value)) for key, value in described["sampling"].items()}
    return facts | {
        name: (row["sha256"], _named(row["source"], row["sha256"])) for name, row in described["benchmarks"].items()
    }


def _named(name: str, content: str | None) -> str:
    """Name with the start of its hash, since a changed file keeps its name."""
    return f"{name} (sha256 {content[:12]})" if content else name
