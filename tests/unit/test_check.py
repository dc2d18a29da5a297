"""rpg-check where one thing at a time is broken: the line that it prints, and its status."""

import json
import os
from pathlib import Path

import pytest

from rpg_openrlhf.check import machine
from rpg_openrlhf.check.stages import STAGES, Failed, Stage
from rpg_openrlhf.commands import check

REAL = machine.installed()


def wrong(stage, platform="cpu") -> str:
    with pytest.raises(Failed) as failure:
        stage(platform)
    assert failure.value.fix
    return f"{failure.value}; to do: {failure.value.fix}"


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"deepspeed": "0.17.0"}, "deepspeed is 0.17.0, OpenRLHF 0.11.2 wants 0.19.6"),
        ({"transformers": "4.51.0"}, "transformers is 4.51.0, OpenRLHF 0.11.2 wants 5.15.0"),
        ({"vllm": None}, "vllm is not installed; to do: make install"),
        ({"openrlhf": None}, "openrlhf is not installed"),
    ],
)
def test_versions_that_do_not_fit(changed, says, monkeypatch):
    found = {name: version for name, version in {**REAL, **changed}.items() if version}
    monkeypatch.setattr(machine, "installed", lambda: found)
    assert says in wrong(machine.versions)


def test_versions_that_fit():
    assert "openrlhf 0.11.2" in machine.versions("cpu")


def test_a_cpu_build_of_torch_on_the_cuda_platform():
    assert "is a CPU build; to do: make install-gpu" in wrong(machine.versions, "cuda")


def test_a_machine_that_is_too_small(monkeypatch, tmp_path):
    usage = machine.shutil.disk_usage
    full = usage("/")._replace(free=1 << 20)
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: full if str(path) == "/dev/shm" else usage(path))
    assert "/dev/shm has 0.0 GiB free; to do: free some, or docker run --shm-size" in wrong(machine.machine)
    monkeypatch.setattr(machine.shutil, "disk_usage", usage)
    monkeypatch.setattr(machine.resource, "getrlimit", lambda what: (1024, 1024))
    assert "a process may open 1024 files; to do: ulimit -n 4096" in wrong(machine.machine)


def test_a_cache_that_cannot_be_written(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "file"))
    assert f"HF_HOME, {tmp_path}/file, cannot be written (File exists)" in wrong(machine.machine)


def test_the_hub(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "new"))
    monkeypatch.setattr(machine, "DISK_GIB", 0)
    monkeypatch.setattr(machine, "FILE_HANDLES", 0)
    monkeypatch.setattr(machine, "SHARED_MEMORY_GIB", 0)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(machine, "hub_is_reachable", lambda: False)
    assert "hub not reachable: models and data must be folders and files" in machine.machine("cpu")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert machine.machine("cpu").endswith("hub HF_HUB_OFFLINE")


@pytest.fixture
def broken(monkeypatch, tmp_path):
    """Stages of a package beside this one, found by a process of their own."""
    folder = tmp_path / "rpg_openrlhf" / "check"
    folder.mkdir(parents=True)
    names = ("hangs", "dies", "raises", "fails", "skips", "works")
    (folder / "broken.py").write_text(
        "import os, time\n"
        "from rpg_openrlhf.check.stages import Failed, Skipped\n"
        "def hangs(platform): time.sleep(60)\n"
        "def dies(platform): os._exit(9)\n"
        "def raises(platform): raise ValueError('two\\nlines')\n"
        "def fails(platform): raise Failed('a port is taken', 'take another')\n"
        "def skips(platform): raise Skipped('nothing to try')\n"
        "def works(platform): print('noise'); return platform\n"
    )
    start = (
        "import sys, rpg_openrlhf.check as package\n"
        f"package.__path__.append({str(folder)!r})\n"
        "from rpg_openrlhf.check import stages\n"
        f"stages.STAGES |= {{name: stages.Stage('broken', 2, '') for name in {names}}}\n"
    )
    (tmp_path / "sitecustomize.py").write_text(start)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])]))
    for name in names:
        monkeypatch.setitem(STAGES, name, Stage("broken", 5 if name == "hangs" else 60, ""))
    return names


def test_every_way_to_end_is_a_line(broken, capsys):
    assert check.main(["--platform", "cuda", "--stages", *broken]) == 1
    out = capsys.readouterr().out
    for says in (
        "did not end in 5 s", "ended with status 9 and no result", "ValueError: two lines", "a port is taken",
        "to do: take another", "nothing to try", "4 of 6 stages failed",
    ):  # fmt: skip
        assert says in out
    assert out.count("\n") == 2 + 6 + 4, "a line a stage, one more for what to do, the head and the end"
    assert check.main(["--platform", "cpu", "--stages", "works", "skips", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert check.main(["--platform", "cpu", "--stages", "works", "skips"]) == 0
    assert capsys.readouterr().out.endswith("\n1 stage passed\n")
    assert [(row["stage"], row["status"]) for row in rows] == [("works", "ok"), ("skips", "skipped")]


@pytest.mark.slow
def test_this_machine(capsys, monkeypatch, tmp_path):
    """All stages of the CPU platform, with the real engine."""
    monkeypatch.setattr(check, "STAGES", STAGES)
    assert check.main(["--platform", "cpu", "--json"]) == 0
    rows = {row["stage"]: row for row in map(json.loads, capsys.readouterr().out.splitlines())}
    assert {name for name, row in rows.items() if row["status"] == "ok"} == set(STAGES) - {"cluster"}
    assert rows["engine"]["says"] == "took the same weights and others"
