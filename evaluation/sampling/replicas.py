"""Replicas: a replica is one engine or server that turns requests into completions."""

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH = 300  # most characters of a library's message in ours
SLICE = 0.5  # seconds between checks of a silent engine, whose children may keep the pipe open after its death


class ReplicaDied(RuntimeError):
    """The engine is gone; its unfinished requests can be given to another."""


class ReplicaRefused(ReplicaDied):
    """The model cannot be loaded or the request can never work: a retry is useless."""


@dataclass(frozen=True)
class Request:
    """One sample to draw: (benchmark, problem, sample), what the model reads, and the seed.

    A server reads `prompt`, which may be chat messages; an engine `token_ids`, which are None only for servers.
    """

    key: tuple[str, str, int]
    prompt: str | list[dict]
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
    """Settings that a replica samples with; every field but `model` is one of evaluation.run's flags."""

    model: str
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = -1  # -1: off
    max_tokens: int = 4096
    max_model_len: int | None = None  # None: the model's own
    dtype: str = "auto"
    tp: int = 1
    gpu_memory_utilization: float = 0.9
    enforce_eager: bool | None = None  # None: eager on CPU only
    trust_remote_code: bool = False
    max_num_seqs: int = 256  # decoded together


class Replica(ABC):
    """Interface that dispatch uses. Every method but `close` may raise ReplicaDied; only `poll` and `close` wait.

    ReplicaDied after `start_seconds` without being ready, or `stall_seconds` without a sign of life while requests
    wait. A subclass defines the methods below `_raise_failure`; its `_receive` sets `_is_ready`, `_heard`, `_failure`.
    """

    dtype: str | None = None  # the weights', once ready

    def __init__(self, name: str, capacity: int, start_seconds: float, stall_seconds: float) -> None:
        self.name = name
        self.capacity = capacity  # number of outstanding requests that keeps it busy
        self.start_seconds, self.stall_seconds = start_seconds, stall_seconds
        self._is_ready, self._outstanding = False, 0
        self._heard = 0.0  # time.monotonic() of the last sign of life
        self._failure: ReplicaDied | None = ReplicaDied(f"{name} was not started")

    def start(self) -> None:
        """Start to load the model, or to look it up at a server."""
        self._failure, self._heard = None, time.monotonic()
        self._open()

    def ready(self) -> bool:
        """True once it accepts requests."""
        if not self._is_ready:
            if not self._failure:
                self._receive(0.0)
            self._raise_failure()
        return self._is_ready

    def submit(self, requests: Sequence[Request]) -> None:
        """Hand requests over, once ready."""
        if self._failure:
            raise self._failure
        if not self._outstanding:
            self._heard = time.monotonic()
        self._outstanding += len(requests)
        self._send(requests)

    def poll(self, timeout: float) -> list[Completion]:
        """Completions as soon as there is one, or none after `timeout` seconds; a failure is raised after the last."""
        deadline = time.monotonic() + timeout
        while True:
            if not self._failure:
                completions = self._receive(min(SLICE, max(0.0, deadline - time.monotonic())))
                self._outstanding -= len(completions)
                if completions:
                    return completions
            self._raise_failure()
            if time.monotonic() >= deadline:
                return []

    def close(self) -> None:
        """End all that it started; may be called twice."""
        self._leave()
        self._failure = self._failure or ReplicaDied(f"{self.name} is closed")

    def _raise_failure(self) -> None:
        """Raise the failure, if there is one or the replica has been silent for too long."""
        limit = self.stall_seconds if self._is_ready else self.start_seconds
        is_waited_for = self._outstanding or not self._is_ready
        if not self._failure and is_waited_for and time.monotonic() - self._heard > limit:
            self._failure = self._silence()
        if self._failure:
            raise self._failure

    @abstractmethod
    def _open(self) -> None: ...

    @abstractmethod
    def _send(self, requests: Sequence[Request]) -> None: ...

    @abstractmethod
    def _receive(self, timeout: float) -> list[Completion]:
        """Completions that have arrived, after at most `timeout` seconds; a failure is stored in `_failure`."""

    @abstractmethod
    def _leave(self) -> None: ...

    @abstractmethod
    def _silence(self) -> ReplicaDied:
        """Failure that describes a silence of too many seconds."""


def squeeze(text: object, width: int = WIDTH) -> str:
    """A message on one line, cut at `width` characters."""
    line = " ".join(str(text).split())
    return line if len(line) <= width else line[: width - 3] + "..."
