"""evaluation.run: sample, grade and report every target that the flags name."""

import hashlib
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from evaluation import checkpoints, settings
from evaluation.problems.loading import Loaded, load
from evaluation.problems.prompting import Style, style_of
from evaluation.settings import Settings
from evaluation.store import read_json, write_json
from evaluation.targets import Opened, Target, check, open_target, prompter_of, targets_of


def main(argv: list[str] | None = None) -> int:
    """Evaluate; return 0, 1 if something could not be evaluated, or 2 for bad input."""
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # read when the hub's library is imported, which is later
    chosen = settings.parse(sys.argv[1:] if argv is None else argv)
    try:
        style = style_of(chosen.prompt)
        check(chosen)
        loaded = [load(name, chosen.data_dir, chosen.benchmark_file, chosen.limit) for name in chosen.benchmarks]
        _refuse_twins(loaded)
        if chosen.reward:
            # Imported late: bad input should be refused before the grader loads.
            from evaluation.grading.graded_row import use_reward

            use_reward(chosen.reward)
        if chosen.dry_run:
            return _dry_run(chosen, style, loaded)
        return _run(chosen, style, loaded)
    except (ValueError, OSError, RuntimeError) as error:  # RuntimeError: Ray does not start
        print(f"evaluation.run: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1


def _refuse_twins(loaded: Sequence[Loaded]) -> None:
    names = [each.benchmark.name for each in loaded]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"--benchmarks: two benchmarks are named {name}: rename one of the files")


def _run(chosen: Settings, style: Style, loaded: Sequence[Loaded]) -> int:
    """Evaluate every target; a bad one does not stop the others. --watch follows the run up to its final model."""
    errors: dict[Path, str] = {}
    done: list[Target] = []
    status = 0
    while True:
        is_last = not chosen.watch or chosen.checkpoints is None or checkpoints.finished(chosen.checkpoints)
        targets = targets_of(chosen)
        if not is_last:  # an incomplete checkpoint may still be written: check it again later
            targets = [t for t in targets if t.flag == "--start" or checkpoints.problem(Path(t.source)) is None]
        fresh = [target for target in targets if target not in done]
        if fresh:
            _write_series(chosen, targets, errors)  # before sampling too: an interrupted series can then be reported
            errors |= _evaluate(chosen, style, loaded, fresh)
            done = targets
            status = _finish(chosen, targets, errors)
        if is_last:
            return status
        time.sleep(chosen.watch_seconds)


def _evaluate(chosen: Settings, style: Style, loaded: Sequence[Loaded], targets: Sequence[Target]) -> dict[Path, str]:
    """Sample and grade -> errors by folder."""
    opened, errors = [], {}
    for target in targets:
        try:
            opened.append(open_target(chosen, target, style, loaded))
        except (ValueError, OSError) as error:
            if isinstance(error, ConnectionError) or len(targets) == 1:
                raise
            errors[target.folder] = str(error)
    if chosen.train_data:
        _contamination(chosen, opened)
    if opened:
        # Imported late: bad input should be refused before the graders and engines load.
        from evaluation.sampling.sampler import sample

        errors |= sample(chosen, opened)
    return errors


def _finish(chosen: Settings, targets: Sequence[Target], errors: dict[Path, str]) -> int:
    """Report if any target has results, and print the errors."""
    _write_series(chosen, targets, errors)
    status = 0
    if any((target.folder / "results.json").exists() for target in targets):
        from evaluation.commands.report import main as report

        status = report([str(chosen.output)])
    for folder, reason in errors.items():
        print(f"evaluation.run: error: {folder.name}: {reason}", file=sys.stderr)
    return 1 if errors or status else 0


def _contamination(chosen: Settings, opened: Sequence[Opened]) -> None:
    """Write contamination.json for every model; models with the same problems share one search."""
    # Imported late: most runs do not need it.
    from evaluation.problems.contamination import report

    assert chosen.train_data is not None
    content: dict[str, dict] = {}
    for model in opened:
        problems = (model.target.folder / "problems.jsonl").read_bytes()
        key = hashlib.sha256(problems).hexdigest()
        content[key] = content.get(key) or report(map(json.loads, problems.splitlines()), chosen.train_data)
        write_json(model.target.folder / "contamination.json", content[key])


def _write_series(chosen: Settings, targets: Sequence[Target], errors: dict[Path, str]) -> None:
    """series.json: the checkpoints in step order, each done, failed or missing."""
    if chosen.checkpoints is None:
        return
    rows = {}
    for target in targets:
        folder, error = target.folder, errors.get(target.folder)
        status = "failed" if error else "done" if (folder / "results.json").exists() else "missing"
        row = {"step": target.step, "path": target.source, "folder": folder.name, "status": status, "error": error}
        rows[folder.name] = row
    chosen.output.mkdir(parents=True, exist_ok=True)
    path = chosen.output / "series.json"
    # A checkpoint that was evaluated and then deleted keeps its numbers.
    for row in read_json(path)["checkpoints"] if path.exists() else ():
        if (chosen.output / row["folder"] / "results.json").exists():
            rows.setdefault(row["folder"], row)
    log = checkpoints.training_log(chosen.checkpoints)
    series = {
        "run_dir": str(chosen.checkpoints.resolve()),
        "label": targets[0].label if targets else chosen.checkpoints.resolve().name,
        "training_log": os.path.abspath(log) if log else None,
        "checkpoints": [rows[folder] for folder in sorted(rows, key=lambda name: (name == "final", name))],
    }
    write_json(path, series)


def _dry_run(chosen: Settings, style: Style, loaded: Sequence[Loaded]) -> int:
    """Print the samples to draw, and one prompt of each benchmark as the model would read it."""
    targets = targets_of(chosen)
    if not targets:
        raise ValueError(f"--checkpoints {chosen.checkpoints}: no checkpoint there yet")
    _, prompter = prompter_of(chosen, targets[0], style, weights=False)
    problems = sum(len(each.problems) for each in loaded)
    for each in loaded:
        prompt = prompter.render(each.problems[0].text)
        if not isinstance(prompt, str):
            prompt = "\n".join(f"[{turn['role']}] {turn['content']}" for turn in prompt)
        print(f"--- {each.benchmark.name}: {len(each.problems)} problems from {each.source}; the first prompt ---")
        print(prompt)
    for target in targets if chosen.checkpoints else ():
        print(f"step {'unknown' if target.step is None else target.step}: {target.source}")
    samples = problems * chosen.n * len(targets)
    print(
        f"--- {len(targets)} model(s) x {problems} problems x {chosen.n} samples = {samples:,} samples, "
        f"at most {samples * chosen.max_tokens:,} tokens; chat template {'on' if prompter.chat else 'off'}; "
        "nothing was started ---"
    )
    return 0
