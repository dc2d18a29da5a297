"""A real vLLM engine on a tiny model: it samples by seed, says why it cannot, and leaves no process behind."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from evaluation.sampling.local_replica import LocalReplica
from evaluation.sampling.replicas import Completion, EngineSettings, Replica, ReplicaDied, ReplicaRefused, Request

ROOT = Path(__file__).parents[3]


def settings(model: Path, **changes) -> EngineSettings:
    return EngineSettings(model=str(model), **{"max_tokens": 24, "max_num_seqs": 32} | changes)


def wait_ready(replica: Replica) -> None:
    while not replica.ready():
        time.sleep(0.05)


def requests(numbers) -> list[Request]:
    """Sample i // 8 of the prompt i % 8, with seed i."""
    return [Request(("sums", str(i % 8), i // 8), "", [5 + i % 8, 7, 9, 6], i) for i in numbers]


def poll_until_death(replica: Replica) -> None:
    while True:
        replica.poll(10)


def sample(replica: Replica, asked: list[Request]) -> dict[tuple, Completion]:
    replica.submit(asked)
    found: list[Completion] = []
    while len(found) < len(asked):
        found += replica.poll(10)
    assert len({c.key for c in found}) == len(found)
    return {c.key: c for c in found}


def group(pid: int) -> set[int]:
    """Living processes of a process group."""
    found = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            if os.getpgid(process.pid) == pid and process.status() != psutil.STATUS_ZOMBIE:
                found.add(process.pid)
    return found


def assert_gone(pid: int, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while left := group(pid):
        assert time.monotonic() < deadline, f"still there: {left}"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def engine(tiny, tmp_path_factory) -> Iterator[LocalReplica]:
    replica = LocalReplica(settings(tiny), tmp_path_factory.mktemp("log") / "engine.log")
    replica.start()
    wait_ready(replica)
    yield replica
    replica.close()


def test_a_seed_decides_its_sample_whatever_is_sampled_beside_it(engine):
    together = sample(engine, requests(range(40)))
    assert len({c.text for c in together.values()}) > 8  # samples differ
    assert {c.finish_reason for c in together.values()} <= {"stop", "length"}
    assert all(1 <= c.tokens <= 24 for c in together.values())
    turned: dict[tuple, Completion] = {}
    for part in (range(39, 20, -1), range(3, 21), range(3)):
        turned |= sample(engine, requests(part))
    assert turned == together


def test_requests_that_come_late_join_the_running_batch(engine):
    engine.submit(requests(range(40)))
    found = engine.poll(10)
    assert found
    engine.submit(requests(range(40, 80)))
    while len(found) < 80:
        found += engine.poll(10)
    assert {c.key for c in found} == {r.key for r in requests(range(80))}


def test_more_prompts_than_a_step_holds(engine):
    """4096 tokens a step on a CPU: seeded requests must not be cut in the middle of a prompt."""
    asked = [
        Request(("long", str(i), 0), "", [5 + (i * j + j // i) % 11 for j in range(231)], i) for i in range(1, 41)
    ]
    found = sample(engine, asked)
    assert {c.finish_reason for c in found.values()} <= {"stop", "length"}


def test_a_prompt_without_room_costs_one_sample_and_a_tight_one_is_cut(engine):
    long, tight = (Request(("sums", name, 0), "", [5] * tokens, 1) for name, tokens in (("long", 300), ("tight", 250)))
    found = sample(engine, [long, tight, *requests(range(3))])
    assert found[long.key] == Completion(long.key, "", 0, "error")
    assert 1 <= found[tight.key].tokens <= 6  # the model holds 256
    assert sum(c.finish_reason == "error" for c in found.values()) == 1


def test_a_killed_engine_is_a_death_and_leaves_nothing(engine):
    """Last of those that share the engine."""
    pid = engine.pid
    engine.submit(requests(range(400)))
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(ReplicaDied, match="SIGKILL"):
        poll_until_death(engine)
    engine.close()
    assert_gone(pid)


def test_a_killed_parent_takes_its_engine_along(tiny, tmp_path):
    program = f"""
        import time
        from pathlib import Path
        from evaluation.sampling.local_replica import LocalReplica
        from evaluation.sampling.replicas import EngineSettings
        replica = LocalReplica(EngineSettings(model={str(tiny)!r}), Path({str(tmp_path / "engine.log")!r}))
        replica.start()
        print(replica.pid, flush=True)
        time.sleep(600)
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        deadline = time.monotonic() + 180
        while "vLLM" not in (tmp_path / "engine.log").read_text():  # in the middle of loading
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert group(pid)
        parent.kill()
    assert_gone(pid)


def test_a_checkpoint_that_does_not_load_is_refused_on_one_line(tiny, tmp_path):
    """One of an unknown architecture; truncated weights, under Ray: test_eval_ray_replicas.py."""
    model = tmp_path / "model"
    shutil.copytree(tiny, model)
    config = model / "config.json"
    config.write_text(config.read_text().replace("Qwen3ForCausalLM", "Qwen99ForCausalLM"))
    replica = LocalReplica(settings(model), tmp_path / "engine.log")
    replica.start()
    pid = replica.pid
    with pytest.raises(ReplicaRefused, match=f"{model} cannot be loaded: ") as caught:
        wait_ready(replica)
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "engine.log") in str(caught.value)
    replica.close()
    assert_gone(pid)
