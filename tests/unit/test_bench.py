"""The driver of the benchmarks: its list is the folder, what is there is kept, and a failure loses nothing."""

import importlib
import importlib.util
import math
import os
import signal
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "benchmarks"
PROGRAMS = {path.stem: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.py")}


@pytest.fixture
def bench(monkeypatch, tmp_path):
    """The driver over a folder of its own, with three programs: one works, one fails, one prints no table."""
    monkeypatch.syspath_prepend(FOLDER)
    spec = importlib.util.spec_from_file_location("bench_driver", FOLDER / "run.py")
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    (tmp_path / "benchmarks").mkdir()
    count = "import pathlib, sys; pathlib.Path('runs').open('a').write(sys.argv[0] + chr(10))\n"
    bodies = {
        "good": "print('turn 1'); print('| a |'); print('|---|'); print('| 1 |'); print('Ratio: 2')",
        "bad": "print('| half |'); sys.exit(3)",
        "silent": "print('nothing')",
    }
    for name, body in bodies.items():
        (tmp_path / "benchmarks" / f"{name}.py").write_text(count + body)
    monkeypatch.setattr(made, "ROOT", tmp_path)
    monkeypatch.setattr(made, "TABLES", [made.Table(name, name.title()) for name in ("bad", "silent", "good")])
    monkeypatch.chdir(tmp_path)
    return made


def driver(name: str):
    spec = importlib.util.spec_from_file_location(name, FOLDER / "run.py")
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def test_the_list_is_the_folder(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    tables = driver("bench_list").TABLES
    runnable = {name for name, text in PROGRAMS.items() if '__name__ == "__main__"' in text}
    assert {table.program or table.name for table in tables} == runnable - {"run"}
    assert len({table.name for table in tables}) == len(tables)
    for table in tables:
        words = table.command(Path("out"), is_quick=True)
        text = PROGRAMS[table.program or table.name] + PROGRAMS["harness"]
        assert [word for word in words if word.startswith("--") and f'"{word}"' not in text] == [], table.name
        assert not any("{" in word for word in words)
        assert ("cuda" in words) == (table.device == "cuda")
        quick_words = set(words) - set(table.command(Path("out"), is_quick=False))
        assert bool(quick_words) == bool(table.quick)


def test_a_failure_loses_nothing_and_what_is_there_is_kept(bench, capsys, tmp_path):
    assert bench.main(["--out", "out"]) == 1
    said = capsys.readouterr().out
    assert "bad: FAILED with status 3, see out/bad.log" in said
    assert "silent: FAILED with status 1, see out/silent.log" in said
    assert "good: done, out/good.md" in said
    assert "without bad, silent, which failed" in said
    page = (tmp_path / "out" / "tables.md").read_text()
    assert page.index("## Bad\n\nNot measured.") < page.index("## Good")
    assert "`python benchmarks/good.py --out out/good.json`" in page
    assert "cores" in page
    assert page.endswith("| a |\n|---|\n| 1 |\nRatio: 2\n")
    assert "turn 1" not in page
    assert "half" not in page

    assert bench.main(["--out", "out"]) == 1
    assert "good: skipped, out/good.md exists" in capsys.readouterr().out
    runs = [Path(line).stem for line in (tmp_path / "runs").read_text().splitlines()]
    assert runs == ["bad", "silent", "good", "bad", "silent"]
    assert bench.main(["--out", "out", "--only", "good"]) == 0


def test_the_model_is_made_only_where_a_table_asks_for_it(bench, capsys, monkeypatch, tmp_path):
    """And if it cannot be made, that table fails and the next is measured."""
    tables = [bench.Table("good", "Good", "--model {model}"), bench.Table("other", "Other", program="good")]
    monkeypatch.setattr(bench, "TABLES", tables)
    assert bench.main(["--out", "out"]) == 1
    said = capsys.readouterr().out
    assert "see out/prepare.log" in said
    assert "other: done" in said
    assert "warm_up.py" in (tmp_path / "out" / "prepare.log").read_text()


def refused(capsys, bench, *words: str) -> str:
    status = bench.main([*words])
    out, err = capsys.readouterr()
    assert (status, out, err.count("\n")) == (2, "", 1)
    return err


def test_refusals_are_one_line(bench, capsys, tmp_path):
    assert "--only nope: no table of --device cpu; choose from bad, silent, good" in refused(
        capsys, bench, "--out", "out", "--only", "nope"
    )
    assert not (tmp_path / "out").exists()
    bench.main(["--out", "out", "--only", "good", "--quick"])
    capsys.readouterr()
    assert "--out out: has tables of quick size; give another folder" in refused(capsys, bench, "--out", "out")


def test_no_gpu_is_refused(bench, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    line = refused(capsys, bench, "--out", "out", "--device", "cuda")
    assert line.startswith("error: --device cuda: torch 2.")
    assert "sees no CUDA device" in line


def test_a_process_of_its_own_gives_its_result_its_error_or_its_status(monkeypatch):
    """No death may look like a measurement: a failed import ends a spawned process before it does anything."""
    monkeypatch.syspath_prepend(FOLDER)
    harness = importlib.import_module("harness")
    assert harness.alone(math.hypot, 3.0, 4.0) == 5
    with pytest.raises(ValueError, match=r"math domain error|nonnegative"):
        harness.alone(math.sqrt, -1.0)
    with pytest.raises(harness.Died, match="status 3"):
        harness.alone(os._exit, 3)
    with pytest.raises(harness.Died) as death:
        harness.alone(signal.raise_signal, signal.SIGKILL)
    assert death.value.status == -signal.SIGKILL


def test_only_a_process_killed_for_memory_is_not_a_number(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    log_probs = importlib.import_module("log_probs")
    case = log_probs.Case(**dict.fromkeys(log_probs.Case._fields, "cpu"))

    def die(status):
        def alone(*_):
            raise log_probs.harness.Died(status)

        monkeypatch.setattr(log_probs.harness, "alone", alone)
        return log_probs.measure("ours", case, 0)

    assert math.isnan(die(-signal.SIGKILL)["seconds"])
    for status in (1, -signal.SIGSEGV):
        with pytest.raises(log_probs.harness.Died):
            die(status)


def test_make_has_both_commands():
    rules = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "bench: $(STAMP)\n\t@$(BIN)/python benchmarks/run.py" in rules
    assert 'benchmarks/run.py --out "$(BENCH)-gpu" --device cuda' in rules
