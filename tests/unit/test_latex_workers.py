"""The killable processes: they answer, stop at their limits, are replaced, and end with their owner."""

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rpg_openrlhf.rewards import worker_pool


@pytest.fixture
def pool(monkeypatch):
    fresh = worker_pool._Pool()
    monkeypatch.setattr(worker_pool, "_pool", fresh)
    worker_pool._remembered.cache_clear()
    yield fresh
    fresh.close()


def test_verdicts(pool):
    assert worker_pool.same_latex(r"\sin 2x", r"2\sin x\cos x") is True
    assert worker_pool.same_latex(r"\sin 2x", r"2\sin x") is False
    assert worker_pool.same_latex(r"\log_2 8", "3") is True
    assert worker_pool.same_latex("1.24e-8", r"\frac{\sqrt{2}}{10^{8}}") is False  # equal to six decimals
    assert worker_pool.same_latex(r"\sin 2x", r"\frac{0}{0}") is False
    assert len(pool.idle) == 1


def test_a_hung_comparison_is_killed_and_the_next_one_works(pool, monkeypatch):
    monkeypatch.setattr(worker_pool, "ANSWER_SECONDS", 1.0)
    start = time.monotonic()
    assert worker_pool.same_latex(r"\sin x", r"9^{9^{9^9}}") is None
    assert time.monotonic() - start < 6
    assert worker_pool.same_latex(r"\sin 2x", r"2\sin x\cos x") is True


def test_memory_is_capped(pool):
    assert worker_pool.same_latex("42", "(3^{10^7})!") in (None, False)
    assert worker_pool.same_latex(r"\log_2 8", "3") is True


def test_a_dead_worker_is_replaced(pool):
    assert worker_pool.same_latex(r"\log_2 8", "3") is True
    pool.idle[0].process.kill()
    assert worker_pool.same_latex(r"\log_3 9", "2") is None
    assert worker_pool.same_latex(r"\log_2 16", "4") is True


def test_at_most_two_workers_serve_many_threads(pool):
    with ThreadPoolExecutor(8) as threads:
        results = list(threads.map(lambda n: worker_pool.same_latex(rf"\log_2 {2**n}", str(n)), range(1, 17)))
    assert results == [True] * 16
    assert 1 <= len(pool.idle) <= worker_pool.MAX_WORKERS


def test_workers_end_with_their_owner():
    code = (
        "import os, signal; from rpg_openrlhf.rewards import worker_pool as w;"
        r"w.same_latex('\\log_2 8', '3');"
        "print(w._pool.idle[0].process.pid, flush=True);"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    owner = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    pid = int(owner.stdout)
    for _ in range(100):
        stat = Path(f"/proc/{pid}/stat")
        if not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.05)
    pytest.fail("the worker outlived its owner")
