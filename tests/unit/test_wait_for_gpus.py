"""The wait for the GPUs of a shared cluster."""

import io
import sys
from types import SimpleNamespace

import pytest

from rpg_openrlhf.launch import attempt


def cluster(monkeypatch, *counts: tuple[int, int]) -> None:
    """Make Ray tell these numbers of all and of free GPUs, one pair after the other."""
    totals, free = (iter(numbers) for numbers in zip(*counts, strict=True))
    ray = SimpleNamespace(
        cluster_resources=lambda: {"GPU": float(next(totals))}, available_resources=lambda: {"GPU": float(next(free))}
    )
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setattr(attempt, "WAIT_SECONDS", 0)


def wait(needed: int) -> tuple[list, str]:
    events, console = [], io.StringIO()
    attempt.wait_for_gpus(SimpleNamespace(num_gpus=needed, platform="cuda"), console, events.append)
    return events, console.getvalue()


def test_it_is_a_phase_of_its_own(monkeypatch):
    cluster(monkeypatch, (8, 0), (8, 2), (8, 4))
    events, console = wait(4)
    assert events == [{"phase": "wait"}, {"phase": "start"}]
    assert console == "waiting: 0 of the cluster's 8 GPUs are free, the run needs 4\n"


def test_free_gpus_are_taken_at_once(monkeypatch):
    cluster(monkeypatch, (4, 4))
    assert wait(4) == ([{"phase": "start"}], "")


def test_a_cluster_with_fewer_gpus_is_refused(monkeypatch):
    cluster(monkeypatch, (2, 2))
    with pytest.raises(RuntimeError, match="the run needs 4 GPUs, the Ray cluster has 2: add nodes"):
        wait(4)


def test_a_node_that_dies_in_the_meantime_ends_the_wait(monkeypatch):
    cluster(monkeypatch, (8, 0), (2, 2))
    with pytest.raises(RuntimeError, match="the run needs 4 GPUs, the Ray cluster has 2"):
        wait(4)


def test_a_long_wait_is_not_silent(monkeypatch):
    monkeypatch.setattr(attempt, "NOTE_SECONDS", 0)
    cluster(monkeypatch, (8, 0), (8, 3), (8, 4))
    assert [line.split()[1] for line in wait(4)[1].splitlines()] == ["0", "3"]
