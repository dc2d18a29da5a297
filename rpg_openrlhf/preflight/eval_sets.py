"""Sets of `--eval.dataset` (files, folders, hub ids, benchmarks by name), checked and merged before anything starts.

Upstream concatenates the sets, which needs the same columns in all of them, and names metrics by the column
`datasource`, which few files have. So the launcher writes one file with the training columns and `datasource`.
"""

from __future__ import annotations

import difflib
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from rpg_openrlhf.errors import Refusal
from rpg_openrlhf.preflight import data
from rpg_openrlhf.problems.benchmarks import HUB, from_hub
from rpg_openrlhf.problems.hub import hub_is_reachable
from rpg_openrlhf.problems.prompt import INSTRUCTION, render_prompt
from rpg_openrlhf.problems.prompt_sets import Columns, PromptSet, checked_row, columns_of, in_messages, raw_rows
from rpg_openrlhf.problems.reading import KINDS
from rpg_openrlhf.problems.rows import BadRow, read_row
from rpg_openrlhf.problems.set_names import split_names
from rpg_openrlhf.runs import evaluation
from rpg_openrlhf.settings.data_checks import NO_BEST, grades_by_default
from rpg_openrlhf.settings.run_settings import Settings

FLAG, FILE = "eval.dataset", "evaluation.jsonl"


class EvalSets(NamedTuple):
    """Merged rows, with the training set's columns and `datasource`, the benchmark's name in the logs."""

    rows: list[dict[str, Any]]
    sizes: dict[str, int]  # number of problems per benchmark
    worded: bool  # problems without a prompt column get the published prompt


class RowOptions(NamedTuple):
    """Options for reading the rows of an evaluation set."""

    columns: Columns  # of the training set
    split: str
    trust_remote_code: bool
    worded: bool  # with the published prompt around a bare problem


def read(s: Settings, training: list[PromptSet]) -> EvalSets | None:
    """Read and check every row; None without a set, or if upstream reads it (ModelScope's hub, or images)."""
    if not s.eval.dataset or data.is_upstreams(s):
        return None
    worded = _is_worded(s, training)
    options = RowOptions(columns_of(s.data, grades_by_default(s)), s.eval.split, s.trust_remote_code, worded)
    rows = _read_all(split_names(s.eval.dataset), options)
    if len(rows) > s.data.max_samples and len({row["datasource"] for row in rows}) > 1:
        raise Refusal(
            f"--data.max_samples {s.data.max_samples}: also truncates the evaluation's {len(rows)} problems, "
            "so the last benchmarks would be missing; raise it, or give fewer benchmarks"
        )
    rows, key = rows[: s.data.max_samples], options.columns.input_key
    if len({type(row[key]) for row in rows}) > 1:
        rows = in_messages(rows, key)
    sets = EvalSets(rows, dict(Counter(row["datasource"] for row in rows)), worded)
    _check_best(s, sets)
    return sets


def _is_worded(s: Settings, training: list[PromptSet]) -> bool:
    """True if benchmark problems get the published prompt: they are asked in the same form as training problems."""
    if s.data.input_template and not s.data.apply_chat_template:
        return False  # upstream applies the template to every prompt
    prompts = [str(row[s.data.input_key]) for part in training for row in part.rows[: data.FIRST_ROWS]]
    return not prompts or any(INSTRUCTION in prompt for prompt in prompts)


def _read_all(names: list[tuple[str, str | None]], options: RowOptions) -> list[dict[str, Any]]:
    """Rows of all sets; a Refusal where two have one name in the logs."""
    rows: list[dict[str, Any]] = []
    owner: dict[str, str] = {}
    for name, folder in names:
        added = _read_one(name, folder, options)
        for benchmark in {row["datasource"] for row in added}:
            if benchmark in owner:
                raise Refusal(
                    f"--{FLAG} {name}: would be called {benchmark} in the logs, as {owner[benchmark]} is; rename the "
                    "file, or leave one of them out"
                )
            owner[benchmark] = name
        rows += added
    return rows


def _read_one(name: str, folder: str | None, options: RowOptions) -> list[dict[str, Any]]:
    if name in HUB:  # not a local path, which settings/paths.py would have made absolute
        fix = f"give a file {name}.jsonl with problem and answer"
        if not hub_is_reachable():
            import datasets

            datasets.config.HF_HUB_OFFLINE = True  # otherwise a minute of retries before the cache is read
        return [_row(name, place, row, options) for place, row in from_hub(name, f"--{FLAG}", fix)]
    called = Path(name).stem if Path(name).suffix in KINDS else Path(name).name
    rows: list[dict[str, Any]] = []
    try:
        for place, row in raw_rows(FLAG, name, folder, options.split, options.trust_remote_code):
            if isinstance(row, dict) and options.columns.input_key in row:
                checked = checked_row(f"--{FLAG} {place}", row, options.columns)
                rows.append(_kept(str(row.get("datasource") or called), checked, options.columns))
            else:
                rows.append(_row(called, place, row, options))
    except Refusal as refusal:
        if re.fullmatch(r"[\w-]+", name) and not rows:  # it may have been meant as a benchmark
            near = difflib.get_close_matches(name, list(HUB), 1)
            hint = f"did you mean {near[0]}?" if near else f"benchmarks by name are {', '.join(HUB)}"
            raise Refusal(f"{refusal}; {hint}") from None
        raise
    return rows


def _kept(name: str, row: dict[str, Any], columns: Columns) -> dict[str, Any]:
    # The name becomes part of a metric's name: characters with a meaning in W&B or TensorBoard become _.
    named = {"datasource": re.sub(r"[^\w.+-]", "_", name)}
    return named | {key: row[key] for key in (columns.input_key, columns.label_key) if key in row}


def _row(name: str, place: str, raw: Any, options: RowOptions) -> dict[str, Any]:
    """Convert a benchmark's row (problem and answer) to the columns of the training set."""
    key, label_key = options.columns.input_key, options.columns.label_key
    try:
        problem = read_row(raw)
    except BadRow as reason:
        has = f"; it has {', '.join(map(str, raw))}" if isinstance(raw, dict) else ""
        raise Refusal(f"--{FLAG} {place} {reason}, nor --data.input_key {key}{has}") from None
    released = raw.get("final_answer")  # OlympiadBench has a list of them
    answer = problem.answer or ", ".join(map(str, released if isinstance(released, list) else []))
    row = {key: render_prompt(problem.text) if options.worded else problem.text}
    if label_key is not None:
        if not answer:
            raise Refusal(f"--{FLAG} {place} has no answer to grade by (answer, label, solution, ground_truth)")
        row[label_key] = answer
    return _kept(name, row, options.columns)


def _check_best(s: Settings, sets: EvalSets) -> None:
    best, known = s.ckpt.best_metric_key, evaluation.scores(sets.sizes, s.eval.n_samples_per_prompt)
    has_our_metrics = s.algo.objective == "rpg" or not s.train.async_enable
    if best not in ("", NO_BEST, *known) and has_our_metrics:
        raise Refusal(
            f"--ckpt.best_metric_key {best}: is no score of this run's evaluation; give one of {', '.join(known)}, or "
            f"{NO_BEST} for no best checkpoint"
        )


def settle(args: Any, sets: EvalSets | None) -> list[tuple[str, str]]:
    """Set the path of the evaluation set and the metric of the best checkpoint. Returns lines of the banner."""
    if sets is None:
        return []
    args.eval.dataset, args.eval.split = str(Path(args.logger.run_dir, FILE)), "train"
    n = args.eval.n_samples_per_prompt
    if not args.train.async_enable:  # an asynchronous run has upstream's trainer, with other metric names
        args.ckpt.best_metric_key = args.ckpt.best_metric_key or evaluation.overall(n)
    if args.eval.steps == -1:
        return []
    listed = ", ".join(f"{name} ({size} problems)" for name, size in sets.sizes.items())
    how = f"{n} samples each at temperature {args.eval.temperature:g}"
    words = ", with the published prompt if a set has none" if sets.worded else ""
    evaluated = f"{listed}: {how}, every {args.eval.steps} rollouts{words}"
    return [("evaluation", evaluated), ("best checkpoint", f"by {args.ckpt.best_metric_key}")]


def write(run_dir: Path, sets: EvalSets | None) -> None:
    """Write the merged set as the file that the trainer reads."""
    if sets is not None:
        text = "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in sets.rows)
        (run_dir / FILE).write_text(text, encoding="utf-8")
