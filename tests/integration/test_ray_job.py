"""As a Ray job on a cluster that is already there; and what is left when a run is interrupted."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import psutil
import pytest

from tests.integration import conftest
from tests.integration.conftest import base_flags

LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}  # Ray's name for: no other machine joins


def environment() -> dict[str, str]:
    return {**conftest.environment(), **LOOPBACK}


RAY = Path(sys.executable).parent / "ray"


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def answers(url: str) -> bool:
    try:
        return urllib.request.urlopen(url, timeout=10).status == 200
    except OSError:
        return False


@pytest.fixture
def cluster():
    """The job address of a Ray head with three virtual GPUs, on loopback."""
    temp = tempfile.mkdtemp(prefix="rpg.")  # short: Ray's socket paths have a length limit
    dashboard, client, agent = free_ports(3)
    command = [RAY, "start", "--head", "--block", "--temp-dir", temp, "--node-ip-address", "127.0.0.1", "--port", "0"]
    command += ["--num-gpus", "2", "--num-cpus", "4", "--dashboard-host", "127.0.0.1"]
    command += ["--dashboard-port", str(dashboard), "--ray-client-server-port", str(client)]
    command += ["--dashboard-agent-listen-port", str(agent)]
    head = subprocess.Popen(
        list(map(str, command)), stdout=subprocess.DEVNULL, env=environment(), start_new_session=True
    )
    deadline = time.monotonic() + 120
    while not answers(f"http://127.0.0.1:{dashboard}/api/version"):
        assert time.monotonic() < deadline, "the Ray head did not start"
        time.sleep(0.5)
    yield f"http://127.0.0.1:{dashboard}"
    os.killpg(head.pid, signal.SIGTERM)
    head.wait(timeout=60)
    shutil.rmtree(temp, ignore_errors=True)


def submit(address: str, *command: str) -> subprocess.CompletedProcess:
    entry = [str(RAY), "job", "submit", "--address", address, "--", *command]
    return subprocess.run(entry, capture_output=True, text=True, timeout=400, env=environment())


def test_ray_job_streams_progress_and_returns_its_status(cluster, tiny, tmp_path):
    """A job that trains succeeds; one that asks for more GPUs than there are fails at once, with the mend."""
    launcher = [sys.executable, "-m", "rpg_openrlhf.commands.train_rpg", *base_flags(*tiny, tmp_path)]
    done = submit(cluster, *launcher)
    assert done.returncode == 0, done.stdout[-3000:]
    assert re.search(r"step 3/3 .*reward", done.stdout)
    assert "tqdm" not in done.stdout
    assert "Generate samples" not in done.stdout
    refused = submit(cluster, *launcher, "--vllm.num_engines", "4")
    assert refused.returncode != 0
    assert re.search(r"needs 5 GPUs, the Ray cluster has 2: ray start .*--num-gpus 5", refused.stdout)


def interruptible() -> None:
    """Before the command starts: a background shell has its children ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_run_leaves_no_process(tiny, tmp_path, signal_number):
    """Ctrl-C and kill while training: a status that says so, and nothing of the run is alive soon after."""
    command = [
        sys.executable,
        "-m",
        "rpg_openrlhf.commands.train_rpg",
        *base_flags(*tiny, tmp_path),
        "--train.num_episodes",
        "99",
    ]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment(), preexec_fn=interruptible)
    assert any(line.startswith("step") for line in iter(run.stdout.readline, "")), "it never trained"
    started = psutil.Process(run.pid).children(recursive=True)
    assert len(started) > 5
    run.send_signal(signal_number)
    assert run.wait(timeout=60) == {signal.SIGINT: 130, signal.SIGTERM: 143}[signal_number]
    _, alive = psutil.wait_procs(started, timeout=30)
    assert not alive
