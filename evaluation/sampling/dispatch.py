"""Requests of several checkpoints over several engines: every engine kept full, a dead one's work given to others.

Knows no engine: a replica is anything with the methods of `replicas.Replica`. Engines move on to the next checkpoint
as soon as the present one has nothing left to hand out, so no engine waits for another one's longest sample.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from evaluation.sampling.replicas import Completion, Replica, ReplicaDied, ReplicaRefused, Request

POLL_SECONDS = 0.2


@dataclass(eq=False)
class Job:
    """One checkpoint's missing samples. `error` is set when it cannot be finished; what was sampled stays."""

    name: str
    pending: deque[Request]
    make_replica: Callable[[int], Replica]  # the slot's number -> a replica of this checkpoint, not started
    restarts_left: int = 2
    error: str | None = None
    outstanding: int = 0
    started: float | None = None  # time.monotonic() when its first engine was given work

    @property
    def remaining(self) -> int:
        """Requests that have no answer yet."""
        return len(self.pending) + self.outstanding


@dataclass(eq=False)
class _Slot:
    number: int
    job: Job | None = None
    replica: Replica | None = None
    sent: dict[tuple, Request] = field(default_factory=dict)


class Dispatcher:
    """`run` returns when every job is finished or has an error; whatever stops it, every replica is closed."""

    def __init__(
        self,
        jobs: Iterable[Job],
        slots: int,
        on_completions: Callable[[Job, list[Completion]], None],
        on_end: Callable[[Job], None],
        say: Callable[[str], None],
        check: Callable[[], None] = lambda: None,
    ):
        """`check` is called between two turns, and may raise."""
        self.jobs = list(jobs)
        self.slots = [_Slot(number) for number in range(slots)]
        self.on_completions, self.on_end, self.say, self.check = on_completions, on_end, say, check
        self.ended: set[int] = set()

    def run(self) -> None:
        """Work until nothing is left."""
        try:
            self._report_ends()
            while any(job.remaining and not job.error for job in self.jobs):
                self.check()
                busy = [slot for slot in self.slots if self._occupy(slot)]
                for slot in busy:
                    self._turn(slot, POLL_SECONDS / len(busy))
                self._report_ends()
        finally:
            for slot in self.slots:
                self._close(slot)

    def _occupy(self, slot: _Slot) -> bool:
        """Bind a free slot to the first job that still has something to hand out."""
        if slot.replica is None:
            job = next((job for job in self.jobs if job.pending and not job.error), None)
            if job is None:
                return False
            slot.job, slot.replica = job, job.make_replica(slot.number)
            self._guarded(slot, slot.replica.start)
        return slot.replica is not None

    def _turn(self, slot: _Slot, seconds: float) -> None:
        job, replica = slot.job, slot.replica
        assert job is not None
        assert replica is not None
        if job.error or not (job.pending or slot.sent):
            self._close(slot)
            return
        self._guarded(slot, lambda: self._exchange(slot, job, replica, seconds))

    def _exchange(self, slot: _Slot, job: Job, replica: Replica, seconds: float) -> None:
        if replica.ready():
            wanted = self._share(job, replica) - len(slot.sent)
            batch = [job.pending.popleft() for _ in range(min(max(wanted, 0), len(job.pending)))]
            # Booked before they are sent: a replica that dies while taking them gives all of them back.
            slot.sent.update((request.key, request) for request in batch)
            job.outstanding += len(batch)
            if batch:
                job.started = job.started or time.monotonic()
                replica.submit(batch)
        completions = [completion for completion in replica.poll(seconds) if slot.sent.pop(completion.key, None)]
        job.outstanding -= len(completions)
        if completions:
            self.on_completions(job, completions)

    def _share(self, job: Job, replica: Replica) -> int:
        """Requests for this replica: its capacity, but no more than an equal part of what is left of its job."""
        engines = sum(slot.job is job for slot in self.slots)
        return min(replica.capacity, -(-job.remaining // engines))

    def _guarded(self, slot: _Slot, action: Callable[[], None]) -> None:
        """A dead replica costs its unanswered requests a second try, and the job one of its restarts."""
        try:
            action()
        except ReplicaDied as death:
            job = slot.job
            assert job is not None
            self._close(slot)
            if isinstance(death, ReplicaRefused) or job.restarts_left == 0:
                job.error = job.error or str(death)
                return
            job.restarts_left -= 1
            self.say(f"{job.name}: {death}; its unfinished samples are asked for again")

    def _close(self, slot: _Slot) -> None:
        replica, job = slot.replica, slot.job
        slot.replica = slot.job = None
        if replica is None or job is None:
            return
        job.outstanding -= len(slot.sent)
        job.pending.extendleft(reversed(slot.sent.values()))
        slot.sent = {}
        replica.close()

    def _report_ends(self) -> None:
        for job in self.jobs:
            if id(job) not in self.ended and (job.error or not job.remaining):
                self.ended.add(id(job))
                self.on_end(job)
