"""Whatever dies and whenever, every request is answered once, and no engine is left open."""

from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.sampling.dispatch import Dispatcher, Job
from evaluation.sampling.replicas import Completion, ReplicaDied, ReplicaRefused, Request


class FakeReplica:
    """Answers in bursts, newest first; dies when its script says so."""

    def __init__(self, world: "World", name: str, capacity: int):
        self.world, self.name, self.capacity = world, name, capacity
        self.held: list[Request] = []
        self.is_closed = False
        self.polls = 0

    def start(self):
        self.world.opened.append(self)
        if self.world.refuse:
            raise ReplicaRefused("no weights")

    def ready(self):
        self.polls += 1
        return self.polls > 1

    def submit(self, requests):
        assert not self.is_closed
        self.held += requests
        self.world.most = max(self.world.most, len(self.held))
        if self.world.dies():
            raise ReplicaDied("killed while taking requests")

    def poll(self, timeout):
        if self.world.dies():
            raise ReplicaDied("killed")
        taken = [self.held.pop() for _ in range(min(self.world.burst, len(self.held)))]
        return [Completion(r.key, str(r.seed), 1, "stop") for r in taken]

    def close(self):
        self.is_closed = True


class World:
    """What the fake replicas share: the script of deaths, and what was seen."""

    def __init__(self, deaths=(), burst=2, refuse=False):
        self.deaths, self.burst, self.refuse = deque(deaths), burst, refuse
        self.opened: list[FakeReplica] = []
        self.most = 0

    def dies(self):
        return bool(self.deaths) and self.deaths.popleft()


class FakeJob(Job):
    """Remembers what it is handed."""

    def __init__(self, world, name, count, restarts=100, capacity=4):
        super().__init__(name, deque(Request((name, str(i), 0), "text", None, i) for i in range(count)), restarts)
        self.world, self.capacity = world, capacity
        self.answered, self.ends = [], 0

    def make_replica(self, slot):
        return FakeReplica(self.world, f"{self.name}/{slot}", self.capacity)

    def take(self, completions):
        self.answered += [(self.name, completion.key) for completion in completions]

    def end(self):
        self.ends += 1


def run(world, jobs, slots):
    Dispatcher(jobs, slots).run()
    assert all(replica.is_closed for replica in world.opened)
    assert [job.ends for job in jobs] == [1] * len(jobs)
    return [answer for job in jobs for answer in job.answered]


@settings(max_examples=150, deadline=None)
@given(
    counts=st.lists(st.integers(0, 12), min_size=1, max_size=4),
    slots=st.integers(1, 4),
    burst=st.integers(1, 5),
    deaths=st.lists(st.booleans(), max_size=40),
)
def test_every_request_is_answered_once(counts, slots, burst, deaths):
    world = World(deaths, burst)
    jobs = [FakeJob(world, f"job{i}", count) for i, count in enumerate(counts)]
    answered = run(world, jobs, slots)
    assert len(answered) == len(set(answered)) == sum(counts)
    assert all(name == key[0] for name, key in answered)
    assert not any(job.error for job in jobs)
    assert world.most <= 4


def test_a_refused_model_does_not_stop_the_others():
    bad, good = World(refuse=True), World()
    jobs = [FakeJob(bad, "bad", 5), FakeJob(good, "good", 5)]
    answered = run(good, jobs, 1)
    assert {name for name, _ in answered} == {"good"}
    assert jobs[0].error == "no weights"
    assert len(bad.opened) == 1, "a model that cannot load is not tried again"


def test_an_engine_that_always_dies_is_given_up():
    world = World([True] * 100)
    job = FakeJob(world, "job", 3, restarts=2)
    assert run(world, [job], 1) == []
    assert job.error == "killed"
    assert len(world.opened) == 3
    assert job.remaining == 3, "what was not answered is still known to be missing"


def test_work_is_shared_between_engines():
    world = World(burst=1)
    run(world, [FakeJob(world, "job", 8, capacity=100)], 2)
    assert len(world.opened) == 2
    assert world.most <= 4, "the first engine to start does not take everything"


def test_finished_jobs_start_no_engine():
    world = World()
    run(world, [FakeJob(world, "job", 0)], 3)
    assert not world.opened


def test_an_error_while_storing_closes_the_engines():
    class FullDisk(FakeJob):
        def take(self, completions):
            raise OSError(28, "No space left on device")

    world = World()
    with pytest.raises(OSError, match="No space"):
        Dispatcher([FullDisk(world, "job", 3)], 2).run()
    assert world.opened
    assert all(replica.is_closed for replica in world.opened)
