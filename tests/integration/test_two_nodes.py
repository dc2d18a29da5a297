"""A Ray cluster of machines that share nothing but files: training, evaluation, and the death of a raylet.

Each has one virtual GPU, so a run's policy and engine are on two of them. All have one host name.
"""

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.integration.conftest import Run, base_flags, environment, finite_steps
from tests.integration.machines import INTERFACE, Machine, machines

ROOT = Path(__file__).parents[2]
TRAIN = "rpg_openrlhf.commands.train_rpg"
GLOO = ("--vllm.sync_backend", "gloo")
POLICY, ENGINE = "ray::RPGPolicyActor", "ray::RPGRolloutActor"
OF_A_RUN = (POLICY, ENGINE, "VLLM::", "ray::RPGTrainer", "ray::_QueueActor")
OF_AN_EVALUATION = ("ray::EngineActor", "evaluation.sampling.engine_process")
SEND = """
import pickle
from rpg_openrlhf.weight_sync.transports import SharedMemory
memory = SharedMemory(64)
print(pickle.dumps(memory.address).hex(), flush=True)
input()
"""
OPEN = """
import pickle, sys
pickle.loads(bytes.fromhex(sys.argv[1])).open(None)
print("open")
"""
LIMIT = 500  # seconds for a command
SECONDS_TO_END = 60  # for processes of a machine that lost its raylet


class Cluster:
    """Machines that share a network. The first is Ray's head and the launcher's."""

    def __init__(self, nodes: list[Machine]):
        self.nodes, self.head = nodes, nodes[0]
        self.address = f"{self.head.address}:6379"
        self.environment = environment() | {"GLOO_SOCKET_IFNAME": INTERFACE, "RAY_USAGE_STATS_ENABLED": "0"}

    def start(self, machine: Machine, cpus: int) -> None:
        """Start Ray on it. Engines, which are placed first, go to where most CPUs are free."""
        machine.start_ray(None if machine is self.head else self.address, cpus, self.environment)

    def where(self, title: str) -> list[Machine]:
        """Machines on which a process of this title runs."""
        return [machine for machine in self.nodes if machine.processes(title)]


@pytest.fixture(scope="module")
def cluster(tiny) -> Iterator[Cluster]:
    """A head and a second machine under Ray, and a third that has not joined."""
    with machines(3) as nodes:
        cluster = Cluster(nodes)
        cluster.start(nodes[0], cpus=3)
        cluster.start(nodes[1], cpus=8)
        yield cluster


@pytest.fixture
def launch(cluster) -> Iterator[Callable[..., subprocess.Popen]]:
    """Start a command of ours on the head: module, then flags. It ends with the test."""
    started: list[subprocess.Popen] = []

    def start(*module_and_flags) -> subprocess.Popen:
        command = cluster.head.command(sys.executable, "-m", *map(str, module_and_flags))
        env = cluster.environment | {"RAY_ADDRESS": cluster.address, "RAY_gcs_server_request_timeout_seconds": "30"}
        output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        started.append(subprocess.Popen(command, cwd=ROOT, env=env, **output))
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            for inside in cluster.head.processes(TRAIN):
                inside.terminate()
            process.communicate(timeout=120)


def output_until(process: subprocess.Popen, pattern: str) -> str:
    """Read the output up to a line that matches."""
    output = ""
    for line in process.stdout:
        output += line
        if re.match(pattern, line):
            return output
    raise AssertionError(output)


def left(machine: Machine, *titles: str) -> list[psutil.Process]:
    """Processes that are still there after the time that they have to end by themselves."""
    deadline = time.monotonic() + SECONDS_TO_END
    while (alive := machine.processes(*titles)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return alive


def kill_the_raylet(machine: Machine) -> None:
    (raylet,) = machine.processes("raylet/raylet")
    raylet.kill()


def test_shared_memory_reaches_its_own_machine_only(cluster):
    """An engine elsewhere is refused with the fix: neither a process number nor the host name decides."""
    sender = subprocess.Popen(
        cluster.head.command(sys.executable, "-c", SEND), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    address = sender.stdout.readline().strip()
    here, there = (
        subprocess.run(machine.command(sys.executable, "-c", OPEN, address), capture_output=True, text=True)
        for machine in cluster.nodes[:2]
    )
    sender.communicate("\n", timeout=60)
    assert here.stdout == "open\n", here.stderr
    assert "an engine cannot reach the policy's memory, as on another host; use gloo" in there.stderr


def test_evaluation_on_two_machines(cluster, launch, tiny, tmp_path):
    """An engine on each, and every sample once."""
    sums = tmp_path / "sums.jsonl"
    rows = [{"id": f"sum-{i}", "problem": f"{1000 + i}+{2000 + i}=\n", "answer": str(3000 + 2 * i)} for i in range(12)]
    sums.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    flags = ["--model", tiny[0], "--benchmarks", sums, "--prompt", "raw", "--no-chat-template", "--n", 8]
    flags += ["--max-tokens", 40, "--max-num-seqs", 4, "--dp", 2, "--ray-address", cluster.address]
    run = launch("evaluation.run", *flags, "--output", tmp_path / "out")
    engines: set[str] = set()
    while run.poll() is None:
        engines |= {machine.address for machine in cluster.where(OF_AN_EVALUATION[1])}
        time.sleep(0.5)
    assert run.returncode == 0, run.communicate()[0]
    assert engines == {machine.address for machine in cluster.nodes[:2]}
    results = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert results["complete"]
    assert results["samples"] == 12 * 8
    for machine in cluster.nodes[:2]:
        assert not left(machine, *OF_AN_EVALUATION)


def test_training_across_machines_of_which_one_dies(cluster, launch, tiny, tmp_path):
    """Weights reach the engine of another machine by the network: there is no other way. Then its raylet is killed.

    The engine there ends by itself, and the run restarts on the remaining machines.
    """
    second, third = cluster.nodes[1:]
    cluster.start(third, cpus=3)
    run = launch(TRAIN, *base_flags(*tiny, tmp_path), *GLOO, "--train.num_episodes", "2", "--ckpt.save_steps", "1")
    output = output_until(run, r"step +1/6")
    assert cluster.where(ENGINE) == [second]
    assert second not in cluster.where(POLICY)
    kill_the_raylet(second)
    assert not left(second, *OF_A_RUN)
    output += run.communicate(timeout=LIMIT)[0]
    assert re.search(rf"error: \w+ \(pid \d+\) died with its node {second.address}", output), output
    assert "restart 1 of at most 3, from " in output
    finite_steps(Run(run.returncode, output, tmp_path / "logs"), steps=6)


def test_the_head_dies(cluster, launch, tiny, tmp_path):
    """Only its raylet is killed: the run ends with a status and a reason, and no process of it is left anywhere."""
    run = launch(TRAIN, *base_flags(*tiny, tmp_path), *GLOO, "--train.num_episodes", "99")
    output = output_until(run, r"step +1/")
    kill_the_raylet(cluster.head)
    output += run.communicate(timeout=LIMIT)[0]
    assert run.returncode == 1, output
    assert re.search(r"error: .* died", output), output
    assert f"RAY_ADDRESS={cluster.address}: no " in output, output
    for machine in cluster.nodes:
        assert not left(machine, *OF_A_RUN)
