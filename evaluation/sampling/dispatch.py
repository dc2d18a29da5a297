"""Dispatch of several checkpoints' requests to several engines, each kept full; a dead one's requests go to others.

An engine moves to the next checkpoint as soon as the current one has no pending requests, so it does not wait for
another engine's longest sample.
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
    """One checkpoint's missing samples. `error` is set if it cannot be finished; stored samples are kept."""

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
        """Replica of this checkpoint for a slot, not started."""

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
    """Runs jobs until each is finished or has an error, and closes every replica however it ends.

    `slots` is the number of parallel engines. `check` is called before every turn, and may raise.
    """

    def __init__(self, jobs: Sequence[Job], slots: int, check: Callable[[], None] = lambda: None):
        self.jobs, self.slots, self.check = jobs, slots, check
        self.engines: dict[int, _Engine] = {}  # by slot

    def run(self) -> None:
        """Run all jobs to their end."""
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
        """Free the slots without work, and bind each free slot to the first job with pending requests."""
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
            # Recorded before they are sent: if the replica dies while it takes them, all are given back.
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
        """Number of requests for this replica: its capacity, but at most an equal share of its job's remainder."""
        engines = sum(other.job is engine.job for other in self.engines.values())
        return min(engine.replica.capacity, -(-engine.job.remaining // engines))

    def _guarded(self, slot: int, action: Callable[[_Engine], None]) -> None:
        """Run the action. If the replica dies, its requests become pending again and its job loses one restart."""
        job = self.engines[slot].job
        try:
            action(self.engines[slot])
        except ReplicaDied as death:
            self._close(slot)
            if isinstance(death, ReplicaRefused) or job.restarts_left == 0:
                job.error = job.error or str(death)
                return
            job.restarts_left -= 1
            # tqdm.write keeps the progress bar intact.
            tqdm.write(f"{job.name}: {death}; its unfinished samples are requested again", file=sys.stderr)

    def _close(self, slot: int) -> None:
        engine = self.engines.pop(slot)
        engine.job.outstanding -= len(engine.sent)
        engine.job.pending.extendleft(reversed(engine.sent.values()))
        engine.replica.close()
