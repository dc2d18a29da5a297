"""Train in a child process, watch it, and restart it from the last checkpoint after a crash or a hang.

This process imports no Ray, so a crash of Ray, DeepSpeed or vLLM cannot stop it from reporting and cleaning up.
"""

import contextlib
import json
import os
import pickle
import re
import select
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import rpg_openrlhf
from rpg_openrlhf.runs import checkpoints
from rpg_openrlhf.runs.lock import only_run

ATTEMPT = "RPG_ATTEMPT"  # set in the environment of every process of an attempt, so that they can be found
JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # set by Ray in the environment of a job
GRACE = 30.0  # seconds for a stopped run to close Ray, W&B and its files
LAST_LINES = 8
CHILD = ("-m", "rpg_openrlhf.launch.attempt")
DIED = 75  # exit status of the child when a restart may help (EX_TEMPFAIL)


class Ended(NamedTuple):
    status: int
    again: bool  # True if a restart may help
    why: str


def launch(args: SimpleNamespace, child: Sequence[str] = CHILD) -> int:
    """Train with `args` (checked, hierarchical); return 0 for success, 1 for failure, 130 or 143 if interrupted.

    child: arguments of Python that run one attempt; tests pass their own.
    """
    if JOB in os.environ:  # without its cluster a job cannot restart
        end_with_parent()
    Path(args.logger.run_dir).mkdir(parents=True, exist_ok=True)
    Path(args.ckpt.path, checkpoints.ACTOR).mkdir(parents=True, exist_ok=True)  # upstream loads only if it exists
    with only_run(Path(args.ckpt.path)) as lock, _terminable():
        try:
            checkpoints.mark_going_on(Path(args.ckpt.path))
            return _attempts(args, child, lock)
        except KeyboardInterrupt:
            print("interrupted", flush=True)
            return 130
        except _Terminated:
            print("terminated", flush=True)
            return 143


def _attempts(args: SimpleNamespace, child: Sequence[str], lock: int) -> int:
    restarts, reached = 0, args.ckpt.resumed_step
    while True:
        ended = _attempt(args, child, lock)
        if ended.status == 0:
            checkpoints.mark_finished(Path(args.ckpt.path), args.ckpt.record)
            return 0
        print(f"error: {ended.why}\n  full log: {log_of(args)}", flush=True)
        if not ended.again:
            return 1
        resume_from_checkpoint(args, checkpoints.newest(Path(args.ckpt.path)))
        step = args.ckpt.resumed_step
        place = f"step {step}" if step else "the start, as there is no checkpoint yet"
        if step > reached:  # a preempted run that moves on may be restarted for ever
            restarts, reached = 0, step
        if restarts == args.train.max_restarts:
            print(f"given up after {restarts} restarts (--train.max_restarts); the same command resumes from {place}")
            return 1
        restarts += 1
        print(f"restart {restarts} of at most {args.train.max_restarts}, from {place}", flush=True)


def end_with_parent() -> None:
    """Send this process SIGTERM when the process that started it has ended."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def resume_from_checkpoint(args: SimpleNamespace, found: checkpoints.Checkpoint | None) -> None:
    """Make the next attempt load this checkpoint; without one it loads what this attempt loaded."""
    if found:
        args.ckpt.load_enable, args.ckpt.resume_from, args.ckpt.resumed_step = True, str(found.folder), found.step


def log_of(args: SimpleNamespace) -> Path:
    """Path of the log of all library output, of this process and of every worker."""
    return Path(args.logger.run_dir, "train.log")


def _attempt(args: SimpleNamespace, command: Sequence[str], lock: int) -> Ended:
    """Run one child to its end, and end every process that it has left."""
    token, log = uuid.uuid4().hex, Log(log_of(args))
    # The child must find the same packages as this process, from any working directory.
    path = [str(Path(rpg_openrlhf.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    events, theirs = os.pipe()
    child = subprocess.Popen(
        [sys.executable, *command, str(theirs)],
        stdin=subprocess.PIPE,
        env=os.environ | {ATTEMPT: token, "PYTHONPATH": os.pathsep.join(filter(None, path))},
        pass_fds=(theirs, lock),  # the inherited lock is held while any process of this run lives
        start_new_session=True,  # Ctrl-C reaches only this process, which stops the child once
    )
    os.close(theirs)
    try:
        with contextlib.suppress(BrokenPipeError), child.stdin:
            pickle.dump(args, child.stdin)
        return _watch(args, child, events, log)
    finally:
        os.close(events)
        _stop(child, token)


def _watch(args: SimpleNamespace, child: subprocess.Popen, events: int, log: "Log") -> Ended:
    phase, since, buffer, died = "start", time.monotonic(), b"", None
    while True:
        limit = getattr(args.deadline, phase, 0)  # a wait for GPUs has none
        left = since + limit - time.monotonic() if limit else 3600.0
        if left <= 0:
            why = f"hung: {phase} has taken more than {limit:g} s (--deadline.{phase})"
            return Ended(1, True, why + log.tail())
        if not select.select([events], [], [], min(left, 1.0))[0]:
            if child.poll() is not None and not select.select([events], [], [], 0)[0]:
                break
            continue
        chunk = os.read(events, 65536)
        if not chunk:
            break
        *lines, buffer = (buffer + chunk).split(b"\n")
        for event in map(json.loads, lines):
            phase, since = event.get("phase", phase), time.monotonic()
            died = event.get("died", died)
    status = child.wait()
    if status == 0:
        return Ended(0, False, "")
    if died:
        again = status == DIED
        return Ended(1, again, died["what"] + (log.tail(died.get("pid")) if again else ""))
    how = signal.Signals(-status).name if status < 0 else f"status {status}"
    return Ended(1, True, f"the driver (pid {child.pid}) ended with {how} in phase {phase}{log.tail()}")


class Log:
    """Library output since the attempt began."""

    def __init__(self, path: Path):
        self.path, self.start = path, path.stat().st_size if path.exists() else 0

    def tail(self, pid: int | None = None) -> str:
        """Format the last lines for an error message; only those that Ray marks with `pid`, if there are any."""
        try:
            with self.path.open("rb") as file:
                file.seek(max(self.start, self.path.stat().st_size - 262144))
                lines = file.read().decode(errors="replace").replace("\r", "\n").splitlines()
        except OSError:
            return ""
        # Progress bars and the state dump of a dying raylet explain nothing.
        lines = [line.rstrip() for line in lines if line.strip() and "%|" not in line and "[state-dump]" not in line]
        marked = [line for line in lines if pid and re.search(rf"pid={pid}\b", line)]
        kept = (marked or lines)[-LAST_LINES:]
        return "".join(f"\n  | {line[:200]}" for line in kept)


def _stop(child: subprocess.Popen, token: str) -> None:
    """Terminate the child, then kill it and every process of the attempt on this machine."""
    if child.poll() is None:
        child.terminate()
        # A second Ctrl-C or SIGTERM ends the wait.
        with contextlib.suppress(subprocess.TimeoutExpired, KeyboardInterrupt, _Terminated):
            child.wait(GRACE)
    child.kill()
    child.wait()
    deadline = time.monotonic() + 5  # Ray's own processes exit by themselves
    while (left := _started_by(token)) and time.monotonic() < deadline:
        time.sleep(0.1)
    seen_none = 0
    while seen_none < 2:  # twice: a process that is just starting shows no environment yet
        for pid in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)
        left = _started_by(token)
        seen_none = 0 if left else seen_none + 1


def _started_by(token: str) -> list[int]:
    """Processes on this machine with the attempt's mark in their environment."""
    mark, processes = f"{ATTEMPT}={token}".encode(), []
    for entry in os.scandir("/proc"):
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if mark in Path(entry.path, "environ").read_bytes().split(b"\0"):
                    processes.append(int(entry.name))
    return processes


class _Terminated(BaseException):
    """SIGTERM as an exception that ends the current attempt."""


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    def terminate(number: int, frame: object) -> None:
        raise _Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
