"""The command as its user runs it: a real engine, interrupted and started again, good and bad checkpoints."""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

ROOT = Path(__file__).parents[3]
N = 8
PLANNED = 12 * N


def command(*flags) -> list[str]:
    return [sys.executable, "-m", "evaluation.run", *map(str, flags)]


def flags(benchmark, output) -> list:
    prompt = ["--benchmarks", benchmark, "--prompt", "raw", "--no-chat-template", "--n", N, "--max-tokens", 40]
    return [*prompt, "--max-num-seqs", 4, "--output", output]


def run(*arguments, expected=0) -> str:
    done = subprocess.run(command(*arguments), cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == expected, done.stdout + done.stderr
    return done.stdout + done.stderr


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def samples(output: Path) -> dict[tuple, dict]:
    found = rows(output / "samples.jsonl")
    by_key = {(row["benchmark"], row["problem"], row["sample"]): row for row in found}
    assert len(by_key) == len(found), "a sample was drawn twice"
    return by_key


def engines() -> list[psutil.Process]:
    """Those that this very test has started."""
    test, found = os.environ["PYTEST_CURRENT_TEST"].partition(" ")[0], []
    for process in psutil.process_iter(["cmdline"]):
        with contextlib.suppress(psutil.Error):
            is_engine = "evaluation.sampling.engine_process" in (process.info["cmdline"] or [])
            if is_engine and process.environ().get("PYTEST_CURRENT_TEST", "").startswith(test):
                found.append(process)
    return found


def checkpoint_of_adapters(model: Path, folder: Path) -> None:
    """A LoRA adapter that has not been trained: merged it is the model."""
    policy = AutoModelForCausalLM.from_pretrained(model)
    adapters = get_peft_model(policy, LoraConfig(task_type="CAUSAL_LM", r=2, target_modules="all-linear"))
    adapters.save_pretrained(folder)
    for file in model.glob("tokenizer*"):
        shutil.copy(file, folder)


@pytest.fixture(scope="module")
def series(tiny, sums, tmp_path_factory) -> tuple[Path, Path, str]:
    """A run's folder with three checkpoints, one of them bad; the output; and what was said."""
    run_dir, output = tmp_path_factory.mktemp("run"), tmp_path_factory.mktemp("series") / "out"
    shutil.copytree(tiny, run_dir / "checkpoints" / "global_step2_hf")
    checkpoint_of_adapters(tiny, run_dir / "checkpoints" / "global_step10_hf")
    broken = shutil.copytree(tiny, run_dir / "checkpoints" / "global_step4_hf")
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    return run_dir, output, run("--checkpoints", run_dir, *flags(sums, output), expected=1)


def test_a_series_with_a_bad_checkpoint(series, sums):
    """The bad one is told of at the end, an adapter is merged first, and other settings are refused."""
    run_dir, output, said = series
    assert "step_000004" in said
    assert "is incomplete" in said
    found = json.loads((output / "series.json").read_text(encoding="utf-8"))
    assert [(c["step"], c["status"]) for c in found["checkpoints"]] == [(2, "done"), (4, "failed"), (10, "done")]
    assert (output / "report.html").exists()
    first, last = (samples(output / name) for name in ("step_000002", "step_000010"))
    assert {k: row["text"] for k, row in first.items()} == {k: row["text"] for k, row in last.items()}
    assert len(first) == PLANNED
    other = run("--checkpoints", run_dir, *flags(sums, output), "--temperature", "0.5", expected=1)
    assert "samples of other settings (temperature 1.0 there, 0.5 now)" in other


def interruptible() -> None:
    """Before the command starts: a background shell, such as CI's, has its children ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture(scope="module")
def resumed(tiny, sums, tmp_path_factory) -> tuple[Path, list[tuple[int, int, str]]]:
    """A run that was killed, interrupted by Ctrl-C and killed at random moments of sampling, then left to its end.

    With the number of its samples, the status and what was said after each.
    """
    folder, chance, ends = tmp_path_factory.mktemp("resumed"), random.Random(3), []
    path = folder / "out" / "samples.jsonl"
    for number, interruption in enumerate((signal.SIGKILL, signal.SIGINT, signal.SIGKILL)):
        target = chance.randrange(number * PLANNED // 5, (number + 1) * PLANNED // 5)
        with (folder / "said.txt").open("w") as said:
            process = subprocess.Popen(
                command("--model", tiny, *flags(sums, folder / "out")),
                cwd=ROOT,
                stderr=said,
                preexec_fn=interruptible,
            )
        deadline = time.monotonic() + 200
        while time.monotonic() < deadline and process.poll() is None:
            if path.exists() and path.read_bytes().count(b"\n") > target:
                break
            time.sleep(0.002)
        process.send_signal(interruption)
        status = process.wait(timeout=60)
        ends.append((len(path.read_bytes().splitlines()), status, (folder / "said.txt").read_text(encoding="utf-8")))
    deadline = time.monotonic() + 60
    while engines() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not engines(), "an engine outlived its run"
    run("--model", tiny, *flags(sums, folder / "out"))
    return folder / "out", ends


def test_stopped_at_any_moment_it_goes_on(series, resumed):
    """Nothing twice, nothing lost, the same texts as an uninterrupted run's."""
    output, ends = resumed
    whole = series[1] / "step_000002"
    assert all(drawn < PLANNED for drawn, _, _ in ends), "too late to show anything"
    assert samples(output) == samples(whole)
    assert sorted(rows(output / "graded.jsonl"), key=str) == sorted(rows(whole / "graded.jsonl"), key=str)
    ours, theirs = (json.loads((o / "results.json").read_text(encoding="utf-8")) for o in (output, whole))
    assert ours["benchmarks"] == theirs["benchmarks"]


def test_interrupted_by_ctrl_c(resumed):
    _, status, said = resumed[1][1]
    assert status == 130, said
    assert said.rstrip().endswith("finished samples are kept, the same command resumes")
    assert "Traceback" not in said


def test_everything_is_written(resumed):
    output = resumed[0]
    results = json.loads((output / "results.json").read_text(encoding="utf-8"))
    assert results["complete"]
    assert results["samples"] == results["planned"] == PLANNED
    (scores,) = results["benchmarks"].values()
    graded = rows(output / "graded.jsonl")
    assert len(graded) == PLANNED
    assert scores["mean"]["value"] == pytest.approx(sum(row["correct"] for row in graded) / PLANNED)
    assert set(scores["pass@k"]) == {"1", "2", "4", "8"}
    for name in ("samples.jsonl", "summary.md", "report.html", "settings.json", "problems.jsonl", "engine.log"):
        assert (output / name).stat().st_size
    assert results["provenance"]["versions"]["transformers"]
    assert results["provenance"]["tokens_per_second"] > 0


def test_a_finished_run_is_left_as_it_is(resumed, tiny, sums):
    before = (resumed[0] / "samples.jsonl").read_bytes()
    run("--model", tiny, *flags(sums, resumed[0]))
    assert (resumed[0] / "samples.jsonl").read_bytes() == before
