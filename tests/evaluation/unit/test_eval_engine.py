"""LocalReplica's side of the pipe against children written by hand: what it says when they fail."""

import os
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from evaluation.sampling import engine_process, local_replica
from evaluation.sampling.local_replica import LocalReplica
from evaluation.sampling.replicas import EngineSettings, ReplicaDied, ReplicaRefused, Request, squeeze

CHILD = """
import json, os, sys, time
from multiprocessing.connection import Connection
pipe = Connection(int(sys.argv[1]))
settings = json.loads(pipe.recv_bytes())
tell = lambda **message: pipe.send_bytes(json.dumps(message).encode())
hear = lambda: json.loads(pipe.recv_bytes())
"""
ECHO = """
tell(ready=True)
while (rows := hear()) is not None:
    tell(done=[[key, str(ids), seed, "stop"] for key, ids, seed in rows])
"""


@pytest.fixture
def child(monkeypatch, tmp_path):
    """A replica whose engine process is the given program."""
    package = tmp_path / "evaluation" / "sampling"
    package.mkdir(parents=True)
    for folder in (package.parent, package):
        (folder / "__init__.py").touch()
    monkeypatch.setattr(local_replica, "ROOT", tmp_path)
    monkeypatch.setattr(local_replica, "GRACE", 0.5)
    monkeypatch.chdir(tmp_path)
    opened = []

    def start(program: str, **options) -> LocalReplica:
        (package / "engine_process.py").write_text(CHILD + program, encoding="utf-8")
        opened.append(LocalReplica(EngineSettings(model="tiny"), tmp_path / "logs" / "engine.log", **options))
        opened[-1].start()
        return opened[-1]

    yield start
    for replica in opened:
        replica.close()
        replica.close()


def wait_ready(replica: LocalReplica) -> None:
    deadline = time.monotonic() + 20
    while not replica.ready():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def request(sample: int = 0, ids=(5, 6)) -> Request:
    return Request(("sums", "a", sample), "2+2=", list(ids), sample)


def test_requests_come_back_with_their_keys(child):
    replica = child(ECHO)
    wait_ready(replica)
    replica.submit([request(3, [7]), request(4)])
    found = replica.poll(10)
    assert [(c.key, c.text, c.tokens) for c in found] == [
        (("sums", "a", 3), "[7]", 3),
        (("sums", "a", 4), "[5, 6]", 4),
    ]
    assert replica.poll(0) == []


def test_poll_returns_at_its_deadline_and_close_is_final(child):
    replica = child(ECHO)
    wait_ready(replica)
    started = time.monotonic()
    assert replica.poll(0.3) == []
    assert 0.25 < time.monotonic() - started < 10
    pid = replica.pid
    replica.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with pytest.raises(ReplicaDied, match="is closed"):
        replica.poll(0)


def test_a_model_that_does_not_load_is_refused_on_one_line(child):
    replica = child(r'tell(refused="ValueError: no\n  such model " + "x" * 1000)')
    with pytest.raises(
        ReplicaRefused, match=r"^tiny cannot be loaded: ValueError: no such model x+\.\.\.  \(log: "
    ) as e:
        wait_ready(replica)
    assert "\n" not in str(e.value)
    assert len(str(e.value).partition("  (log")[0]) < 340


def test_the_cause_is_looked_for_in_the_log_where_vllm_keeps_it_there(child):
    program = """
print("(EngineCore pid=7) ERROR 11-21 12:00:00 [core.py:9] torch.OutOfMemoryError: CUDA out of memory.", flush=True)
tell(refused="RuntimeError: Engine core initialization failed. See root cause above.")
"""
    with pytest.raises(ReplicaRefused, match=r"tiny cannot be loaded: torch.OutOfMemoryError: CUDA out of memory\."):
        wait_ready(child(program))


def test_a_death_is_told_after_the_samples_before_it(child):
    program = 'tell(ready=True); hear(); tell(done=[[["sums", "a", 0], "4", 1, "stop"]]); os.abort()'
    replica = child(program)
    wait_ready(replica)
    replica.submit([request(0), request(1)])
    assert [c.text for c in replica.poll(10)] == ["4"]
    with pytest.raises(ReplicaDied, match=r"engine engine ended by SIGABRT.*engine\.log\)"):
        replica.poll(10)
    with pytest.raises(ReplicaDied):
        replica.submit([request(2)])


def test_an_engine_that_fails_says_why(child):
    replica = child('tell(ready=True); hear(); tell(died="RuntimeError: bad step"); sys.exit(1)')
    wait_ready(replica)
    replica.submit([request()])
    with pytest.raises(ReplicaDied, match=r"failed: RuntimeError: bad step") as caught:
        replica.poll(10)
    assert not isinstance(caught.value, ReplicaRefused)


def test_a_death_is_seen_while_a_grandchild_holds_the_pipe_and_the_grandchild_dies(child, tmp_path):
    program = """
tell(ready=True)
hear()
if (pid := os.fork()):
    open("grandchild", "w").write(str(pid))
    os.kill(os.getpid(), 9)
time.sleep(60)
"""
    replica = child(program)
    wait_ready(replica)
    replica.submit([request()])
    with pytest.raises(ReplicaDied, match="by SIGKILL"):
        replica.poll(10)
    pid = int((tmp_path / "grandchild").read_text())
    replica.close()
    deadline = time.monotonic() + 20
    while Path(f"/proc/{pid}/stat").exists() and " Z " not in Path(f"/proc/{pid}/stat").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_deadlines_of_loading_and_of_steps(child):
    replica = child("time.sleep(60)", start_seconds=0.2)
    with pytest.raises(ReplicaDied, match=r"did not load tiny in 0\.2 s"):
        wait_ready(replica)
    replica = child("tell(ready=True); time.sleep(60)", stall_seconds=0.2)
    wait_ready(replica)
    time.sleep(0.3)
    assert replica.poll(0.1) == []  # nothing is asked, so nothing is late
    replica.submit([request()])
    with pytest.raises(ReplicaDied, match=r"took no step in 0\.2 s with 1 requests"):
        replica.poll(10)


def test_a_child_that_does_not_read_does_not_block_submit(child):
    replica = child("tell(ready=True); time.sleep(60)")
    wait_ready(replica)
    os.kill(replica.pid, signal.SIGSTOP)
    started = time.monotonic()
    replica.submit([request(i, range(10_000)) for i in range(300)])
    assert time.monotonic() - started < 10


def test_squeeze():
    assert squeeze(" a\n b\t c ") == "a b c"
    assert squeeze("x" * 400, 10) == "xxxxxxx..."


def test_a_merged_model_that_is_refused_is_removed(monkeypatch, tmp_path):
    """By the child itself: its parent may be killed before it closes."""

    def refuse(settings: dict) -> None:
        assert Path(settings["model"]).is_dir()
        raise ValueError("no memory")

    adapters = SimpleNamespace(write_merged=lambda model, folder, trust: folder.mkdir())
    monkeypatch.setitem(sys.modules, "rpg_openrlhf.weight_sync.adapters", adapters)
    monkeypatch.setattr(engine_process, "base_model", lambda model: "base")
    monkeypatch.setattr(engine_process, "build", refuse)
    with pytest.raises(ValueError, match="no memory"):
        engine_process.Engine({"model": "adapter", "scratch": str(tmp_path), "trust_remote_code": False})
    assert not any(tmp_path.iterdir())
