"""Grading processes: limits, deaths and floods cost one sample each, and leave no process behind."""

import contextlib
import multiprocessing
import operator
import os
import signal
import time
from pathlib import Path

import pytest

from evaluation.grading.grading_pool import GradingError, GradingPool
from tests.evaluation.graded_case import sample_row
from tests.unit.test_hostile_answers import hostile

RIGHT = {"gold": "42", "golds": ["42"]}


def workers():
    return [process.pid for process in multiprocessing.active_children() if process.name == "pebble_pool_worker"]


def children(pid):
    with contextlib.suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def is_running(pid):
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def wait_for(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


@pytest.fixture
def quick_start(monkeypatch):
    """Workers without limits of memory and without a LaTeX reader, which takes seconds to start."""
    monkeypatch.setattr("evaluation.grading.grading_pool._prepare", operator.add)


@pytest.fixture(scope="module")
def pool():
    with GradingPool(2, seconds=20) as pool:
        pool.run(abs, -1, otherwise=None).result(60)
        yield pool


@pytest.mark.parametrize(
    ("text", "finish_reason", "reason", "is_strict", "extracted"),
    [
        ("Answer: 42", "stop", "correct", True, "42"),
        ("Answer: 42", "length", "correct", True, "42"),
        ("\\boxed{42}", "stop", "correct", False, "42"),
        ("Answer: 41", "length", "wrong", False, "41"),
        ("Answer: 41 or 42", "stop", "ambiguous", False, "41 or 42"),
        ("hm", "stop", "no_answer", False, None),
        ("hm", "length", "truncated", False, None),
        ("<think>Answer: 42", "length", "correct", True, "42"),
        ("\ud800\x00 Answer: 42", "stop", "correct", True, "42"),
    ],
)
def test_rows(pool, text, finish_reason, reason, is_strict, extracted):
    row = pool.submit(RIGHT, sample_row("one", 3, text, finish_reason), "dapo").result(60)
    assert (row["reason"], row["strict"], row["extracted"]) == (reason, is_strict, extracted)
    assert (row["benchmark"], row["problem"], row["sample"], row["tokens"]) == ("small", "one", 3, len(text))
    assert row["correct"] == (reason == "correct")


def test_the_boxed_style(pool):
    assert pool.submit(RIGHT, sample_row("one", 0, "\\boxed{42}"), "boxed").result(60)["strict"]
    assert not pool.submit(RIGHT, sample_row("one", 0, "Answer: 42"), "boxed").result(60)["strict"]


def test_deaths_and_memory_cost_themselves_only(pool):
    """A worker that is killed, exits, or asks for too much; and those around it, which must be graded."""
    bad = [
        pool.run(signal.raise_signal, signal.SIGKILL, otherwise="died"),
        pool.run(os._exit, 3, otherwise="died"),
        pool.run(bytearray, 8 << 30, otherwise="died"),
        pool.run(operator.truediv, 1, 0, otherwise="died"),
    ]
    good = [pool.submit(RIGHT, sample_row("one", number, "Answer: 42"), "dapo") for number in range(20)]
    assert [future.result(60) for future in bad] == ["died"] * 4
    assert all(future.result(60)["correct"] for future in good)


def test_a_deadline_costs_one_task(quick_start):
    with GradingPool(1, seconds=2) as pool:
        slow = pool.run(time.sleep, 60, otherwise="late")
        row = pool.submit(RIGHT, sample_row("one", 0, "Answer: 42"), "dapo")
        assert slow.result(30) == "late"
        assert row.result(30)["correct"]


def test_workers_killed_while_idle_or_busy(pool):
    for pid in workers():
        os.kill(pid, signal.SIGKILL)
    assert pool.submit(RIGHT, sample_row("one", 0, "Answer: 42"), "dapo").result(60)["correct"]
    late = [pool.run(time.sleep, 0.3, otherwise="died") for _ in range(8)]
    time.sleep(0.2)
    os.kill(workers()[0], signal.SIGKILL)
    assert [future.result(60) for future in late].count(None) >= 6


def test_a_flood_of_hostile_answers(pool, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cases = [hostile(seed) for seed in range(40)]
    start = time.monotonic()
    futures = [
        pool.submit({"gold": gold, "golds": [gold]}, sample_row("one", number, text), "dapo")
        for number, (_, text, gold) in enumerate(cases)
    ]
    rows = [future.result(120) for future in futures]
    assert time.monotonic() - start < 110
    solid = [
        row for row, (family, *_) in zip(rows, cases, strict=True) if family in ("_code", "_explosive", "_costly")
    ]
    assert not any(row["correct"] for row in solid)
    assert {row["reason"] for row in rows} <= {"correct", "wrong", "no_answer", "ambiguous", "timeout"}
    assert os.listdir(tmp_path) == []


def test_an_abandoned_pool_ends_at_once(quick_start):
    pool = GradingPool(1)
    future = pool.run(time.sleep, 60, otherwise=None)
    assert wait_for(lambda: len(pool._running) == 1)
    before = set(workers())
    pool.abandon()
    assert future.cancelled()
    assert wait_for(lambda: len(set(workers()) & before) < len(before) or not workers())
    with pytest.raises(GradingError, match="closed"):
        pool.run(abs, -1, otherwise=None)


def test_processes_that_cannot_start_are_an_error(monkeypatch):
    monkeypatch.setattr("evaluation.grading.grading_pool._prepare", os._exit)  # refuses its two arguments
    with pytest.raises(GradingError, match="do not start"), GradingPool(1) as pool:
        pool.run(abs, -1, otherwise=None).result(120)
