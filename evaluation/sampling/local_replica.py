"""Engine on this machine: a child process (`engine_process.py`) that exchanges JSON over a socket pair.

The child has its own session, so that all processes that it starts can be killed together. vLLM's output goes to the
log.
"""

import contextlib
import json
import os
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from evaluation.sampling.replicas import (
    SLICE,
    Completion,
    EngineSettings,
    Replica,
    ReplicaDied,
    ReplicaRefused,
    Request,
    squeeze,
)

ROOT = Path(__file__).parents[2]
GRACE = 5.0  # seconds for an engine to exit by itself (shared memory, NCCL) before it is killed
NOISE = ("Engine core init", "leaked", "destroy_process_group", "resource_tracker", "EngineDeadError")


class LocalReplica(Replica):
    """A vLLM engine in a child process of this one."""

    def __init__(
        self, settings: EngineSettings, log: Path, start_seconds: float = 1200, stall_seconds: float = 1800
    ) -> None:
        # Twice as many, so that the engine has requests waiting when this process is slow.
        super().__init__(f"engine {log.stem}", 2 * settings.max_num_seqs, start_seconds, stall_seconds)
        self.settings, self.log = settings, log
        self._process: subprocess.Popen | None = None

    @property
    def pid(self) -> int | None:
        """Id of the child's process, session and process group."""
        return self._process.pid if self._process else None

    def _open(self) -> None:
        self._scratch = tempfile.TemporaryDirectory(prefix="engine-")  # removed here, as a killed child cannot
        self._connection, theirs = Pipe()
        command = [sys.executable, "-m", "evaluation.sampling.engine_process", str(theirs.fileno()), str(os.getpid())]
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log, theirs:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                env=os.environ | {"PYTHONPATH": python_path()},
            )
        # A thread sends, so that a child that stops reading does not block this process.
        self._outbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._sender = threading.Thread(target=send_all, args=(self._connection, self._outbox), daemon=True)
        self._sender.start()
        self._outbox.put(asdict(self.settings) | {"scratch": self._scratch.name})

    def _send(self, requests: Sequence[Request]) -> None:
        self._outbox.put([[request.key, request.token_ids, request.seed] for request in requests])

    def _receive(self, timeout: float) -> list[Completion]:
        assert self._process is not None
        completions: list[Completion] = []
        # Checked before the pipe is read: all messages of a dead child are in the pipe by then.
        status = self._process.poll()
        is_gone = status is not None
        try:
            while self._connection.poll(0 if completions or self._failure else timeout):
                completions += self._take(json.loads(self._connection.recv_bytes()) or {})
        except (EOFError, OSError):
            is_gone = True
            with contextlib.suppress(subprocess.TimeoutExpired):
                status = self._process.wait(SLICE)
        if is_gone and not self._failure:
            self._failure = self._died(f"ended {_ending(status)}")
        return completions

    def _take(self, message: dict) -> list[Completion]:
        self._heard = time.monotonic()
        if message.get("ready"):
            self._is_ready, self.dtype = True, message.get("dtype")
        if reason := message.get("refused") or message.get("died"):
            reason = last_meaningful_line(self.log) if _is_noise(reason) else squeeze(reason)
            if "refused" in message:
                self._failure = ReplicaRefused(f"{self.settings.model} cannot be loaded: {reason}  (log: {self.log})")
            else:
                self._failure = ReplicaDied(f"{self.name} failed: {reason}  (log: {self.log})")
        return [Completion(tuple(key), *row) for key, *row in message.get("done", ())]

    def _leave(self) -> None:
        """Ask a working child to exit, then kill its process group."""
        process, self._process = self._process, None
        if process is None:
            return
        self._outbox.put(None)
        if self._failure is None and self._is_ready:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        self._scratch.cleanup()
        # Closed only after its writer has ended: the number of a closed descriptor may be reused at once.
        self._sender.join(GRACE)
        if not self._sender.is_alive():
            self._connection.close()

    def _silence(self) -> ReplicaDied:
        if not self._is_ready:
            return self._died(f"did not load {self.settings.model} in {self.start_seconds:g} s")
        return self._died(f"took no step in {self.stall_seconds:g} s with {self._outstanding} requests")

    def _died(self, what: str) -> ReplicaDied:
        line = last_meaningful_line(self.log)
        return ReplicaDied(f"{self.name} {what}{': ' + line if line else ''}  (log: {self.log})")


def python_path() -> str:
    """PYTHONPATH with which a child process finds this package."""
    return os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))


def send_all(connection: Connection, outbox: queue.SimpleQueue) -> None:
    """Write messages up to and including None; stop if the other side is gone, which the reader reports."""
    message: Any = {}
    with contextlib.suppress(OSError):
        while message is not None:
            message = outbox.get()
            connection.send_bytes(json.dumps(message).encode())


def last_meaningful_line(log: Path) -> str:
    """The log's last line that names an error, else its last line; "" without one."""
    with contextlib.suppress(OSError), log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 65536))
        # (EngineCore pid=7) ERROR 11-21 12:00:00 [core.py:99] ValueError: ... -> ValueError: ...
        prefix = re.compile(r"^(\([^)]*\) *)?([A-Z]+ [\d-]+ [\d:]+ \[[^\]]*\] *)?")
        lines = [prefix.sub("", line).strip() for line in file.read().decode(errors="replace").splitlines()]
        lines = [line for line in lines if line and not _is_noise(line)]
        errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Interrupt|Fatal)\b", line)]
        return squeeze((errors or lines or [""])[-1])
    return ""


def _is_noise(line: str) -> bool:
    return any(word in line for word in NOISE)


def _ending(status: int | None) -> str:
    if status is None:
        return "its connection"
    return f"by {signal.Signals(-status).name}" if status < 0 else f"with status {status}"
