"""A replica is one engine somewhere that turns requests into completions; here the one on this machine.

The engine lives in a child process (`engine_process.py`) in a session of its own, so that whatever it starts
can be killed together; the two talk JSON over a socket pair, and what vLLM prints goes to the log.
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
from dataclasses import asdict, dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Protocol

ROOT = Path(__file__).parents[2]
WIDTH = 300  # characters of a library's message that are repeated in ours
SLICE = 0.5  # seconds; how often a silent child is looked at, for its children may hold the pipe open after its death
GRACE = 5.0  # seconds for an engine to leave by itself (shared memory, NCCL) before it is killed
NOISE = ("Engine core init", "leaked", "destroy_process_group", "resource_tracker", "EngineDeadError")


class ReplicaDied(RuntimeError):
    """The engine is gone; its unfinished requests can be given to another."""


class ReplicaRefused(ReplicaDied):
    """The model cannot be loaded or the request can never work: trying again is useless."""


@dataclass(frozen=True)
class Request:
    """One sample to draw: (benchmark, problem, sample), what the model reads, and the seed."""

    key: tuple[str, str, int]
    prompt: str | list[dict]  # chat messages only for servers
    token_ids: list[int] | None
    seed: int


@dataclass(frozen=True)
class Completion:
    """One finished sample; `finish_reason` is stop, length, error (could not be sampled) or the server's own word."""

    key: tuple[str, str, int]
    text: str
    tokens: int
    finish_reason: str


@dataclass(frozen=True)
class EngineSettings:
    """Settings that a replica samples with."""

    model: str
    tokenizer: str | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = -1  # -1: off
    max_tokens: int = 4096
    max_model_len: int | None = None  # None: the model's own
    dtype: str = "auto"
    tensor_parallel: int = 1
    gpu_memory_utilization: float = 0.9
    enforce_eager: bool | None = None  # None: eager on CPU only
    trust_remote_code: bool = False
    max_num_seqs: int = 256  # decoded together


class Replica(Protocol):
    """Interface that dispatch drives; every method but close may raise ReplicaDied."""

    name: str
    capacity: int  # how many requests it wants outstanding, enough never to run dry

    def start(self) -> None: ...  # returns at once
    def ready(self) -> bool: ...  # returns at once
    def submit(self, requests: Sequence[Request]) -> None: ...  # returns at once; once ready
    def poll(self, timeout: float) -> list[Completion]: ...  # returns as soon as there is something
    def close(self) -> None: ...  # ends all that it started; may be called twice


class LocalReplica:
    """A vLLM engine in a child process of this one; `env` is added to the child's environment.

    ReplicaDied after `start_seconds` without an engine, or `stall_seconds` without a step while requests wait.
    """

    def __init__(
        self,
        settings: EngineSettings,
        log: Path,
        env: dict[str, str] | None = None,
        start_seconds: float = 1200,
        stall_seconds: float = 1800,
    ) -> None:
        self.settings, self.log, self.env = settings, Path(log), env or {}
        self.start_seconds, self.stall_seconds = start_seconds, stall_seconds
        self.name = f"engine {self.log.stem}"
        # As many again wait inside the engine, so that a slow writer here never leaves it without work.
        self.capacity = 2 * settings.max_num_seqs
        self._process: subprocess.Popen | None = None
        self._connection: Connection | None = None
        self._outbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._outstanding: set[tuple[str, str, int]] = set()
        self._ready = False
        self.dtype: str | None = None  # the weights', once ready
        self._heard = 0.0  # when the engine last took a step
        self._failure: ReplicaDied | None = None

    @property
    def pid(self) -> int | None:
        """The child's process, session and process group."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Spawn the child; ReplicaRefused where it cannot be."""
        ours, theirs = Pipe()
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
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
                env=os.environ | {"PYTHONPATH": path} | self.env,
            )
        self._connection, self._heard = ours, time.monotonic()
        # A thread sends: a child that no longer reads must stall itself, not us.
        self._sender = threading.Thread(target=_send_all, args=(ours, self._outbox), daemon=True)
        self._sender.start()
        self._scratch = tempfile.TemporaryDirectory(prefix="engine-")  # removed here: a killed child cannot
        self._post(asdict(self.settings) | {"scratch": self._scratch.name})

    def ready(self) -> bool:
        """True once the model is loaded."""
        if not self._ready:
            self._receive(0.0)
            if self._failure:
                raise self._failure
            if not self._ready and time.monotonic() - self._heard > self.start_seconds:
                raise self._fail(f"did not load {self.settings.model} in {self.start_seconds:g} s")
        return self._ready

    def submit(self, requests: Sequence[Request]) -> None:
        """Hand requests over; ValueError for chat messages without token ids."""
        if self._failure:
            raise self._failure
        for request in requests:
            if request.token_ids is None and not isinstance(request.prompt, str):
                raise ValueError(f"request {request.key}: an engine reads text or token ids, not chat messages")
        if not self._outstanding:
            self._heard = time.monotonic()
        self._outstanding.update(request.key for request in requests)
        # Text is dropped where there are token ids: it would only be sent, never read.
        self._post([[r.key, r.prompt if r.token_ids is None else None, r.token_ids, r.seed] for r in requests])

    def poll(self, timeout: float) -> list[Completion]:
        """Completions, as soon as there is one, or none after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while True:
            completions = self._receive(min(SLICE, max(0.0, deadline - time.monotonic())))
            if completions:
                return completions
            if self._failure:
                raise self._failure
            if self._outstanding and time.monotonic() - self._heard > self.stall_seconds:
                raise self._fail(f"took no step in {self.stall_seconds:g} s with {len(self._outstanding)} requests")
            if time.monotonic() >= deadline:
                return []

    def close(self) -> None:
        """Ask the child to leave if it still can, then kill its whole group."""
        process, self._process = self._process, None
        if process is None:
            return
        if self._failure is None and self._ready:
            self._post(None)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE)
        self._outbox.put(None)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        self._scratch.cleanup()
        # Closed only once nobody writes to it any more: the number of a closed descriptor is soon somebody else's.
        self._sender.join(GRACE)
        if self._connection and not self._sender.is_alive():
            self._connection.close()
        self._failure = self._failure or ReplicaDied(f"{self.name} is closed")

    def _post(self, message: object) -> None:
        self._outbox.put(json.dumps(message).encode())

    def _receive(self, timeout: float) -> list[Completion]:
        """Every message that is there; a death is kept in `_failure`, so that what came before it is not lost."""
        completions: list[Completion] = []
        if self._failure or self._process is None or self._connection is None:
            self._failure = self._failure or ReplicaDied(f"{self.name} was not started")
            return completions
        # Looked at before the pipe: what a dead child has sent is all in the pipe by then.
        status = self._process.poll()
        try:
            while self._connection.poll(0 if completions or self._failure else timeout):
                completions += self._take(json.loads(self._connection.recv_bytes()))
            if status is not None and not self._failure:
                self._fail(f"ended {_ending(status)}")
        except (EOFError, OSError):
            if not self._failure:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    status = self._process.wait(SLICE)
                self._fail(f"ended {_ending(status)}")
        return completions

    def _take(self, message: dict) -> list[Completion]:
        self._heard = time.monotonic()
        if "refused" in message:
            reason = message["refused"] if not _is_noise(message["refused"]) else last_meaningful_line(self.log)
            line = f"{self.settings.model} cannot be loaded: {squeeze(reason)}"
            self._failure = ReplicaRefused(f"{line}  (log: {self.log})")
        elif "died" in message:
            reason = message["died"] if not _is_noise(message["died"]) else last_meaningful_line(self.log)
            self._failure = ReplicaDied(f"{self.name} failed: {squeeze(reason)}  (log: {self.log})")
        elif message.get("ready"):
            self._ready = True
            self.dtype = message.get("dtype")
        rows = message.get("done", ())
        self._outstanding.difference_update(tuple(key) for key, *_ in rows)
        return [Completion(tuple(key), text, tokens, reason) for key, text, tokens, reason in rows]

    def _fail(self, what: str) -> ReplicaDied:
        line = last_meaningful_line(self.log)
        self._failure = ReplicaDied(f"{self.name} {what}{': ' + line if line else ''}  (log: {self.log})")
        return self._failure


def squeeze(text: object, width: int = WIDTH) -> str:
    """A message on one line, cut at `width` characters."""
    line = " ".join(str(text).split())
    return line if len(line) <= width else line[: width - 3] + "..."


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


def _send_all(connection: Connection, outbox: "queue.SimpleQueue[bytes | None]") -> None:
    with contextlib.suppress(OSError):  # the reader notices the death
        while (message := outbox.get()) is not None:
            connection.send_bytes(message)
