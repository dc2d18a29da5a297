"""Two engines under Ray on the CPU: they share the work, and one that is killed is told from the other."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap

import pytest
import ray

from evaluation.sampling import ray_replicas
from evaluation.sampling.ray_replicas import RayReplica
from evaluation.sampling.replicas import EngineSettings, ReplicaDied, ReplicaRefused
from tests.evaluation.integration.test_eval_engine_process import (
    ROOT,
    assert_gone,
    poll_until_death,
    requests,
    sample,
    wait_ready,
)


@pytest.fixture
def cluster(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with ray_replicas.cluster(None, dp=2, tp=1):
        yield
    assert not ray.is_initialized()


def pids(actor) -> tuple[int, int | None]:
    """The actor's own process and its engine's."""
    return os.getpid(), actor.pid


def test_two_engines_and_the_death_of_one(cluster, tiny, tmp_path):
    settings = EngineSettings(model=str(tiny), max_tokens=24, max_num_seqs=16)
    first, second = (RayReplica(settings, tmp_path / f"engine_{i}.log") for i in range(2))
    truncated = shutil.copytree(tiny, tmp_path / "truncated")
    weights = truncated / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    refused = RayReplica(EngineSettings(model=str(truncated)), tmp_path / "truncated.log")
    for replica in (first, second):
        replica.start()
        assert replica.poll(0) == []  # before it is ready
    for replica in (first, second):
        wait_ready(replica)
    assert first.dtype == second.dtype == "bfloat16"
    assert sample(first, requests(range(12))) == sample(second, requests(range(12)))
    actor, engine = ray.get(first.actor.__ray_call__.remote(pids))
    other = ray.get(second.actor.__ray_call__.remote(pids))[1]
    first.submit(requests(range(400)))
    os.kill(actor, signal.SIGKILL)
    with pytest.raises(ReplicaDied, match=r"engine_0 is gone"):
        poll_until_death(first)
    assert_gone(engine)
    first.close()
    first.close()
    assert len(sample(second, requests(range(12)))) == 12
    os.kill(other, signal.SIGKILL)
    with pytest.raises(ReplicaDied, match=r"engine_1 ended by SIGKILL.*engine_1\.log"):
        poll_until_death(second)
    second.close()
    refused.start()
    with pytest.raises(ReplicaRefused, match="truncated cannot be loaded: ") as caught:
        wait_ready(refused)
    assert "\n" not in str(caught.value)
    assert "truncated.log" in str(caught.value)
    refused.close()


def test_ray_listens_on_loopback_only():
    """In a process of its own, for Ray decides while it is imported."""
    program = """
        import psutil
        from evaluation.sampling.ray_replicas import cluster
        with cluster(None, dp=1, tp=1):
            found = [c for p in psutil.Process().children(recursive=True) for c in p.net_connections("inet")]
            listening = {c.laddr.ip.removeprefix("::ffff:") for c in found if c.status == psutil.CONN_LISTEN}
            print(listening - {"127.0.0.1", "::1"})
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    command = [sys.executable, "-c", textwrap.dedent(program)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip().splitlines()[-1:] == ["set()"], done.stdout + done.stderr


def test_a_cluster_with_too_few_gpus_is_refused(monkeypatch):
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    ray.init(address="local", num_gpus=1, num_cpus=1, include_dashboard=False)
    try:
        refusal = pytest.raises(RuntimeError, match=r"--dp 2 --tp 2 needs 4 GPUs, the Ray cluster has 1: lower --dp")
        with refusal, ray_replicas.cluster(None, 2, 2):
            pass
        assert ray.is_initialized()  # it was not ours to stop
    finally:
        ray.shutdown()


def test_an_address_where_no_cluster_is():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    refusal = pytest.raises(RuntimeError, match=rf"--ray-address {address}: cannot be joined \(.*refused\)")
    with refusal, ray_replicas.cluster(address, 1, 1):
        pass
