"""The supervisor, with children that are small programs of their own: what it says, starts again and leaves behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from rpg_openrlhf.errors import Refusal
from rpg_openrlhf.launch import supervise
from rpg_openrlhf.runs import checkpoints
from rpg_openrlhf.runs import lock as run_lock
from tests.unit.test_checkpoints import write

ROOT = Path(__file__).parents[2]
CHILD = """
import json, os, pickle, subprocess, sys, time
from pathlib import Path
args = pickle.load(sys.stdin.buffer)
def tell(**event): os.write(int(sys.argv[-1]), json.dumps(event).encode() + b"\\n")
run_dir = Path(args.logger.run_dir)
log = open(run_dir / "train.log", "a")
times = run_dir / "times"
count = len(times.read_text()) if times.exists() else 0
times.write_text("x" * (count + 1))
(run_dir / "resumed").write_text(str(args.ckpt.resumed_step))
"""


@pytest.fixture
def run(tmp_path, capsys):
    """Launch a child of the given body; its exit status and what was printed."""

    def launch(body: str, restarts: int = 2, **deadline) -> tuple[int, str]:
        child = tmp_path / "child.py"
        child.write_text(CHILD + body)
        status = supervise.launch(arguments(tmp_path, restarts, **deadline), [str(child)])
        return status, capsys.readouterr().out

    return launch


def arguments(folder: Path, restarts: int, **deadline) -> SimpleNamespace:
    limits = dict.fromkeys(("start", "generate", "experience", "train", "sync", "save", "evaluate"), 60.0) | deadline
    ckpt = SimpleNamespace(
        path=str(folder / "ckpt"), load_enable=False, resume_from=None, resumed_step=0, record={"flags": {"a": 1}}
    )
    return SimpleNamespace(
        ckpt=ckpt,
        logger=SimpleNamespace(run_dir=str(folder / "logs")),
        train=SimpleNamespace(max_restarts=restarts),
        deadline=SimpleNamespace(**limits),
    )


def starts(tmp_path) -> int:
    return len((tmp_path / "logs" / "times").read_text())


def test_a_run_that_ends_well_is_marked(run, tmp_path):
    status, said = run("tell(phase='train')")
    assert (status, said, starts(tmp_path)) == (0, "", 1)
    assert checkpoints.finished(tmp_path / "ckpt") == {"flags": {"a": 1}, "inputs": {}}


def test_a_child_finds_the_package_and_none_of_its_folders_by_another_name(run, monkeypatch):
    """`import settings` in a user's reward function is the user's own file."""
    monkeypatch.delenv("PYTHONPATH", raising=False)
    _, said = run("tell(died={'what': os.environ['PYTHONPATH']}); sys.exit(1)")
    assert said.startswith(f"error: {ROOT}\n")


def test_an_error_that_would_come_again_is_not_tried_again(run, tmp_path):
    status, said = run(
        "print('(A pid=7) so far so good', file=log, flush=True); tell(died={'what': 'Oops: no'}); sys.exit(1)"
    )
    assert (status, starts(tmp_path)) == (1, 1)
    assert said == f"error: Oops: no\n  full log: {tmp_path}/logs/train.log\n", "it says what is wrong by itself"
    assert checkpoints.finished(tmp_path / "ckpt") is None


def test_a_death_is_named_with_its_last_lines_and_the_run_goes_on(run, tmp_path):
    write(tmp_path / "ckpt", "global_step4")
    body = """
if count == 0:
    for i in range(20): print(f"(A pid=7) line {i}", f"(B pid=70) line {i}", sep="\\n", file=log, flush=True)
    tell(died={"what": "A (pid 7) died", "pid": 7}); sys.exit(75)
"""
    status, said = run(body)
    assert (status, starts(tmp_path)) == (0, 2)
    assert "error: A (pid 7) died\n" in said
    assert "(A pid=7) line 19" in said
    assert "(A pid=7) line 11" not in said
    assert "pid=70" not in said
    assert "restart 1 of at most 2, from step 4" in said
    assert (tmp_path / "logs" / "resumed").read_text() == "4"


def test_a_new_checkpoint_starts_the_count_of_restarts_again(run, tmp_path, monkeypatch):
    steps = iter((4, 8, 8))
    newest = lambda path: checkpoints.Checkpoint(tmp_path, next(steps), {})  # noqa: E731
    monkeypatch.setattr(supervise.checkpoints, "newest", newest)
    status, said = run("os.kill(os.getpid(), 9)", restarts=1)
    assert (status, starts(tmp_path)) == (1, 3)
    assert "restart 1 of at most 1, from step 4" in said
    assert "restart 1 of at most 1, from step 8" in said
    assert "given up after 1 restarts (--train.max_restarts); the same command resumes from step 8" in said


def test_given_up_after_as_many_restarts_as_allowed(run, tmp_path):
    status, said = run("os.kill(os.getpid(), 9)", restarts=1)
    assert (status, starts(tmp_path)) == (1, 2)
    assert said.count("ended with SIGKILL in phase start") == 2
    assert "given up after 1 restarts (--train.max_restarts); the same command resumes from the start" in said


def test_a_phase_that_takes_too_long_is_hung(run, tmp_path):
    body = "tell(phase='generate')\nif count == 0: time.sleep(99)"
    began = time.monotonic()
    status, said = run(body, generate=5)  # which a loaded machine does not take for the second child
    assert (status, starts(tmp_path)) == (0, 2)
    assert "hung: generate has taken more than 5 s (--deadline.generate)" in said
    assert time.monotonic() - began < 90


def test_no_limit(run):
    assert run("tell(phase='save'); time.sleep(1.2)", save=0)[0] == 0


def test_nothing_that_the_child_started_outlives_it(run, tmp_path):
    """Also what left its process group and its parent, as Ray's workers and vLLM's engines do."""
    body = """
sleeper = f"import time; time.sleep(98.{os.getpid()})"
subprocess.Popen([sys.executable, "-c", sleeper], start_new_session=True)
(run_dir / "sleeper").write_text(sleeper)
tell(died={"what": "x"}); os.kill(os.getpid(), 9)
"""
    assert run(body, restarts=0)[0] == 1
    sleeper = (tmp_path / "logs" / "sleeper").read_text()
    assert not [p for p in psutil.process_iter(["cmdline"]) if sleeper in (p.info["cmdline"] or [])]


def start_apart(tmp_path, body: str, below: tuple[str, ...] = (), **more: str) -> subprocess.Popen:
    (tmp_path / "child.py").write_text(CHILD + body)
    code = (
        "import sys; from pathlib import Path; from rpg_openrlhf.launch import supervise\n"
        "from tests.unit.test_supervise import arguments\n"
        f"sys.exit(supervise.launch(arguments(Path({str(tmp_path)!r}), 3), [{str(tmp_path / 'child.py')!r}]))"
    )
    return subprocess.Popen(
        [*below, sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | more,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, f"no {path}"
        time.sleep(0.02)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted(tmp_path, number, status):
    """The child is told once, has time to close what it has, and is not started again."""
    body = """
import signal
def end(*_): (run_dir / "closed").touch(); sys.exit(143)
signal.signal(signal.SIGTERM, end); (run_dir / "ready").touch(); time.sleep(99)
"""
    process = start_apart(tmp_path, body)
    wait_for(tmp_path / "logs" / "ready")
    process.send_signal(number)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == status
    assert said in ("interrupted\n", "terminated\n")
    assert (tmp_path / "logs" / "closed").exists()
    assert starts(tmp_path) == 1


def test_a_ray_job_ends_with_its_cluster(tmp_path):
    """Ray's process above the launcher is killed with the head; starting again would find no cluster."""
    process = start_apart(
        tmp_path,
        "(run_dir / 'pid').write_text(f'{os.getppid()} {os.getpid()}'); time.sleep(99)",
        below=("sh", "-c", '"$@"; exit $?', "sh"),
        **{supervise.JOB: "{}"},
    )
    wait_for(tmp_path / "logs" / "pid")
    time.sleep(0.2)
    pids = (tmp_path / "logs" / "pid").read_text().split()
    process.kill()
    said, _ = process.communicate(timeout=60)
    assert said == "terminated\n"
    left = [psutil.Process(int(pid)) for pid in pids if psutil.pid_exists(int(pid))]
    assert not psutil.wait_procs(left, timeout=10)[1]
    assert starts(tmp_path) == 1


def test_two_runs_do_not_write_to_one_folder(tmp_path, monkeypatch):
    """Nor does a second one begin while a child of the first, whose supervisor was killed, is alive."""
    process = start_apart(tmp_path, "(run_dir / 'pid').write_text(str(os.getpid())); time.sleep(99)")
    wait_for(tmp_path / "logs" / "pid")
    process.kill()
    process.wait()
    monkeypatch.setattr(run_lock, "PATIENCE", 0.5)
    with pytest.raises(Refusal, match="another run is writing there"):
        supervise.launch(arguments(tmp_path, 0), ["nothing"])
    with pytest.raises(Refusal, match="another run is writing there"):
        run_lock.await_earlier(Path(arguments(tmp_path, 0).ckpt.path))
    os.kill(int((tmp_path / "logs" / "pid").read_text()), signal.SIGKILL)
    (tmp_path / "child.py").write_text(CHILD)
    run_lock.await_earlier(Path(arguments(tmp_path, 0).ckpt.path))
    assert supervise.launch(arguments(tmp_path, 0), [str(tmp_path / "child.py")]) == 0
