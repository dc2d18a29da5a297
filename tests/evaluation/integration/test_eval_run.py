"""The command as its user runs it: a real engine, killed and started again, good and bad checkpoints."""

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


@pytest.fixture(scope="module")
def whole(tiny, sums, tmp_path_factory) -> Path:
    """An uninterrupted run."""
    output = tmp_path_factory.mktemp("whole") / "out"
    run("--model", tiny, *flags(sums, output))
    return output


def test_everything_is_written(whole):
    results = json.loads((whole / "results.json").read_text(encoding="utf-8"))
    assert results["complete"]
    assert results["samples"] == results["planned"] == PLANNED
    (scores,) = results["benchmarks"].values()
    graded = rows(whole / "graded.jsonl")
    assert len(graded) == PLANNED
    assert scores["mean"]["value"] == pytest.approx(sum(row["correct"] for row in graded) / PLANNED)
    assert set(scores["pass@k"]) == {"1", "2", "4", "8"}
    for name in ("samples.jsonl", "summary.md", "report.html", "settings.json", "problems.jsonl", "engine.log"):
        assert (whole / name).stat().st_size
    assert results["provenance"]["versions"]["transformers"]
    assert results["provenance"]["tokens_per_second"] > 0


def test_a_finished_run_is_left_as_it_is(whole, tiny, sums):
    before = (whole / "samples.jsonl").read_bytes()
    run("--model", tiny, *flags(sums, whole))
    assert (whole / "samples.jsonl").read_bytes() == before


def test_killed_at_any_moment_it_goes_on(whole, tiny, sums, tmp_path):
    """Three kills of the whole command at random moments of sampling: nothing twice, nothing lost, the same texts."""
    output, chance, kills = tmp_path / "out", random.Random(3), 0
    while kills < 3:
        target = chance.randrange(kills * PLANNED // 5, (kills + 1) * PLANNED // 5)
        process = subprocess.Popen(command("--model", tiny, *flags(sums, output)), cwd=ROOT, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 200
        while time.monotonic() < deadline and process.poll() is None:
            path = output / "samples.jsonl"
            if path.exists() and path.read_bytes().count(b"\n") > target:
                break
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        kills += 1
        assert len(rows_so_far(output)) < PLANNED, "killed too late to show anything"
    deadline = time.monotonic() + 60
    while engines() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not engines(), "an engine outlived its run"
    run("--model", tiny, *flags(sums, output))
    assert samples(output) == samples(whole)
    assert sorted(rows(output / "graded.jsonl"), key=str) == sorted(rows(whole / "graded.jsonl"), key=str)
    ours, theirs = (json.loads((o / "results.json").read_text(encoding="utf-8")) for o in (output, whole))
    assert ours["benchmarks"] == theirs["benchmarks"]


def rows_so_far(output: Path) -> list[bytes]:
    return (output / "samples.jsonl").read_bytes().splitlines()


def test_a_series_with_a_bad_checkpoint(tiny, sums, tmp_path):
    """The bad ones are told of at the end; Ctrl-C and then the same command; other settings are refused."""
    run_dir, output = tmp_path / "run", tmp_path / "out"
    for step in (2, 10):
        shutil.copytree(tiny, run_dir / "checkpoints" / f"global_step{step}_hf")
    broken = shutil.copytree(tiny, run_dir / "checkpoints" / "global_step4_hf")
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    said = run("--checkpoints", run_dir, *flags(sums, output), "--limit", 2, expected=1)
    assert "step_000004" in said
    assert "is not whole" in said
    series = json.loads((output / "series.json").read_text(encoding="utf-8"))
    assert [(c["step"], c["status"]) for c in series["checkpoints"]] == [(2, "done"), (4, "failed"), (10, "done")]
    assert (output / "report.html").exists()
    first, last = (samples(output / name) for name in ("step_000002", "step_000010"))
    assert {k: row["text"] for k, row in first.items()} == {k: row["text"] for k, row in last.items()}
    assert len(first) == 2 * N
    other = run("--checkpoints", run_dir, *flags(sums, output), "--temperature", "0.5", expected=1)
    assert "samples of other settings (temperature 1.0 there, 0.5 now)" in other


def interruptible() -> None:
    """Before the command starts: a background shell, such as CI's, has its children ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_interrupted_by_ctrl_c(tiny, sums, tmp_path):
    process = subprocess.Popen(
        command("--model", tiny, *flags(sums, tmp_path / "out")),
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=interruptible,
    )
    path, deadline = tmp_path / "out" / "samples.jsonl", time.monotonic() + 200
    while time.monotonic() < deadline and not (path.exists() and path.stat().st_size):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert said.rstrip().endswith("finished samples are kept, the same command resumes")
    assert "Traceback" not in said
