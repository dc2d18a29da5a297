"""Requests of several checkpoints over several engines: every engine kept full, a dead one's work given to others.

Engines move on to the next checkpoint as soon as the present one has nothing left to hand out, so no engine waits for
another one's longest sample.
"""

import sys
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tqdm import tqdm

from evaluation.sampling.replicas import Completion, Replica, ReplicaDied, ReplicaRefused, Request

POLL_SECONDS = 0.2


class Job(ABC):
    """One checkpoint's missing samples. `error` is set when it cannot be finished; what was sampled stays."""

    def __init__(self, name: str, pending: deque[Request], restarts: int = 2) -> None:
        self.name, self.pending, self.restarts_left = name, pending, restarts
        self.error: str | None = None
        self.outstanding = 0
        self.started: float | None = None  # time.monotonic() when its first engine was given work

    @property
    def remaining(self) -> int:
        """Requests that have no answer yet."""
        return len(self.pending) + self.outstanding

    @abstractmethod
    def make_replica(self, slot: int) -> Replica:
        """A replica of this checkpoint for the slot of that number, not started."""

    @abstractmethod
    def take(self, completions: list[Completion]) -> None:
        """Store samples."""

    @abstractmethod
    def end(self) -> None:
        """Called once, when every request has its answer or `error` is set."""


@dataclass(eq=False)
class _Engine:
    job: Job
    replica: Replica
    sent: dict[tuple, Request] = field(default_factory=dict)


class Dispatcher:
    """`run` returns when every job is finished or has an error; whatever stops it, every replica is closed.

    `slots` is the number of engines side by side. `check` is called between two turns, and may raise.
    """

    def __init__(self, jobs: Sequence[Job], slots: int, check: Callable[[], None] = lambda: None):
        self.jobs, self.slots, self.check = jobs, slots, check
        self.engines: dict[int, _Engine] = {}  # by slot

    def run(self) -> None:
        """Work until nothing is left."""
        unfinished = list(self.jobs)
        try:
            while True:
                for job in [job for job in unfinished if job.error or not job.remaining]:
                    unfinished.remove(job)
                    job.end()
                if not unfinished:
                    return
                self.check()
                self._occupy()
                for slot in list(self.engines):
                    self._guarded(slot, lambda engine: self._turn(engine, POLL_SECONDS / len(self.engines)))
        finally:
            for slot in list(self.engines):
                self._close(slot)

    def _occupy(self) -> None:
        """Bind every free slot to the first job that still has something to hand out; free those without work."""
        for slot in range(self.slots):
            engine = self.engines.get(slot)
            if engine and (engine.job.error or not (engine.job.pending or engine.sent)):
                self._close(slot)
            job = next((job for job in self.jobs if job.pending and not job.error), None)
            if job and slot not in self.engines:
                self.engines[slot] = _Engine(job, job.make_replica(slot))
                self._guarded(slot, lambda engine: engine.replica.start())

    def _turn(self, engine: _Engine, seconds: float) -> None:
        job, replica, sent = engine.job, engine.replica, engine.sent
        if replica.ready():
            wanted = self._share(engine) - len(sent)
            batch = [job.pending.popleft() for _ in range(min(max(wanted, 0), len(job.pending)))]
            # Booked before they are sent: a replica that dies while taking them gives all of them back.
            sent.update((request.key, request) for request in batch)
            job.outstanding += len(batch)
            if batch:
                job.started = job.started or time.monotonic()
                replica.submit(batch)
        completions = [completion for completion in replica.poll(seconds) if sent.pop(completion.key, None)]
        job.outstanding -= len(completions)
        if completions:
            job.take(completions)

    def _share(self, engine: _Engine) -> int:
        """Requests for this replica: its capacity, but no more than an equal part of what is left of its job."""
        engines = sum(other.job is engine.job for other in self.engines.values())
        return min(engine.replica.capacity, -(-engine.job.remaining // engines))

    def _guarded(self, slot: int, action: Callable[[_Engine], None]) -> None:
        """A dead replica costs its unanswered requests a second try, and the job one of its restarts."""
        job = self.engines[slot].job
        try:
            action(self.engines[slot])
        except ReplicaDied as death:
            self._close(slot)
            if isinstance(death, ReplicaRefused) or job.restarts_left == 0:
                job.error = job.error or str(death)
                return
            job.restarts_left -= 1
            # A line that leaves the progress bar whole.
            tqdm.write(f"{job.name}: {death}; its unfinished samples are asked for again", file=sys.stderr)

    def _close(self, slot: int) -> None:
        engine = self.engines.pop(slot)
        engine.job.outstanding -= len(engine.sent)
        engine.job.pending.extendleft(reversed(engine.sent.values()))
        engine.replica.close()
