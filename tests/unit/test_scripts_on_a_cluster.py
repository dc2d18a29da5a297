"""The shell scripts with a cluster that is none: what is started, asked and ended in which order; exit status."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.unit import fake_cluster

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "examples" / "scripts"


def started(script: str, *words: object, **environment: object) -> subprocess.Popen[str]:
    given = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "RAY_JOBS")}
    given |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    given |= {name: str(value) for name, value in environment.items()}
    command = [str(FOLDER / script), *map(str, words)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=given, start_new_session=True, **pipes)


def run(script: str, *words: object, **environment: object) -> subprocess.CompletedProcess[str]:
    process = started(script, *words, **environment)
    try:
        stdout, stderr = process.communicate(timeout=120)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


class Cluster:
    """The fakes of fake_cluster.py, installed in a folder, and what they were asked."""

    def __init__(self, folder: Path):
        self.folder, self.environment = folder, fake_cluster.install(folder)

    def log(self) -> list[str]:
        path = self.folder / "log"
        return path.read_text().splitlines() if path.exists() else []

    def await_line(self, start: str) -> str:
        deadline = time.monotonic() + 60
        while not (found := [line for line in self.log() if line.startswith(start)]):
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.05)
        return found[0]


@pytest.fixture
def cluster(tmp_path):
    return Cluster(tmp_path / "cluster")


@pytest.fixture
def joined(cluster):
    """A head that runs already, as somebody else's: its address."""
    port = free_port()
    command = [cluster.folder / "bin" / "ray", "start", "--head", "--block", "--dashboard-port", str(port)]
    head = subprocess.Popen(command, env={**os.environ, **cluster.environment})
    cluster.await_line("head")
    yield f"http://127.0.0.1:{port}"
    assert head.poll() is None, "a script ended a cluster that it had not started"
    head.terminate()
    head.wait(timeout=30)


LAYERS = ("debug/quickstart_cpu", "algorithm/rpg_urkl")


@pytest.mark.parametrize(
    ("ending", "status"), [("SUCCEEDED", 0), ("FAILED", 1), ("STOPPED", 1), ("LOST", 0)], ids=lambda value: str(value)
)
def test_a_job_on_a_running_cluster(cluster, joined, tmp_path, ending, status):
    """STOPPED and LOST: what `ray job submit` itself returns is 0, also while the job still runs."""
    environment = {**cluster.environment, "RAY_JOBS": joined, "FAKE_JOB": ending, "OUT": tmp_path / "out"}
    environment |= {"http_proxy": "http://127.0.0.1:9"}  # where nobody answers: not for what is on this machine
    done = run("train_rpg.sh", *LAYERS, "--train.seed", 7, **environment)
    assert done.returncode == status, done.stderr
    head, submitted = cluster.log()
    assert head.startswith("head on here"), "no second head"
    assert submitted.startswith(
        f"submit to {joined} env -C {os.getcwd()} python -m rpg_openrlhf.commands.train_rpg --config "
    )
    assert all(f"{ROOT}/configs/{layer}.yaml" in submitted for layer in LAYERS)
    assert submitted.endswith("--train.seed 7")


@pytest.mark.parametrize(("sent", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 130)])
def test_an_interrupted_script_stops_its_job_and_no_more(cluster, joined, tmp_path, sent, status):
    environment = {**cluster.environment, "RAY_JOBS": joined, "FAKE_JOB": "LONG", "OUT": tmp_path / "out"}
    script = started("train_rpg.sh", *LAYERS, **environment)
    cluster.await_line("submit")
    script.send_signal(sent)
    assert script.wait(timeout=60) == status
    assert cluster.log()[2:] == ["stop"]


def test_a_head_of_its_own_ends_with_the_script(cluster, tmp_path):
    done = run("train_rpg.sh", *LAYERS, OUT=tmp_path / "out", GPUS=2, **cluster.environment)
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in cluster.log()] == ["head", "submit", "head"]
    assert cluster.log()[-1] == "head on here ends"


def slurm(cluster, tmp_path, **more) -> dict[str, object]:
    ports = {"PORT": 6379, "JOBS_PORT": free_port()}
    job = {"SLURM_JOB_NODELIST": "node[1-2]", "SLURM_SUBMIT_DIR": ROOT, "OUT": tmp_path / "out"}
    return {**cluster.environment, **ports, **job, **more}


@pytest.mark.parametrize(("ending", "status"), [("SUCCEEDED", 0), ("FAILED", 1)])
def test_slurm_starts_ray_on_every_node_and_ends_it(cluster, tmp_path, ending, status):
    environment = slurm(cluster, tmp_path, FAKE_JOB=ending, http_proxy="http://127.0.0.1:9")
    done = run("train_slurm.sh", *LAYERS, "--train.seed", 7, **environment)
    assert done.returncode == status, done.stderr
    head, worker, submitted, *ends = cluster.log()
    assert (head, worker) == ("head on node1 at 6379", "worker on node2 at 127.0.0.1:6379")
    assert submitted.startswith(
        f"submit to http://127.0.0.1:{environment['JOBS_PORT']} env -C {os.getcwd()} python -m "
    )
    assert submitted.endswith("--train.seed 7")
    assert sorted(ends) == ["head on node1 ends", "worker on node2 ends"]


@pytest.mark.parametrize("dead", ["head", "worker"])
def test_slurm_does_not_wait_for_a_node_that_is_broken(cluster, tmp_path, dead):
    done = run("train_slurm.sh", *LAYERS, **slurm(cluster, tmp_path, FAKE_DEAD=dead))
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "train_slurm.sh: Ray ended on a node; its output is above"
    assert f"{dead} on node{1 + (dead == 'worker')}: this node is broken" in done.stderr
    assert [line for line in cluster.log() if line.startswith("submit")] == []
    assert len([line for line in cluster.log() if line.endswith("ends")]) == (dead == "worker")


def test_slurms_signal_stops_the_job_while_there_is_a_cluster(cluster, tmp_path):
    script = started("train_slurm.sh", *LAYERS, **slurm(cluster, tmp_path, FAKE_JOB="LONG"))
    cluster.await_line("submit")
    script.terminate()
    assert script.wait(timeout=60) == 143
    stop, *ends = cluster.log()[3:]
    assert stop == "stop"
    assert sorted(ends) == ["head on node1 ends", "worker on node2 ends"]


@pytest.mark.parametrize(("ending", "status"), [("SUCCEEDED", 0), ("FAILED", 1)])
def test_a_table_trains_evaluates_and_reports_every_run(cluster, joined, tmp_path, ending, status):
    environment = {**cluster.environment, "RAY_JOBS": joined, "FAKE_JOB": ending, "OUT": tmp_path / "out"}
    done = run("reproduce_table.sh", "smoke", "--train.seed", 7, EVAL="--n 2", **environment)
    assert done.returncode == status, done.stderr
    _, *asked = cluster.log()
    runs = [tmp_path / "out" / "quickstart_cpu" / method for method in ("GRPO", "RPG-REINFORCE-URKL")]
    if ending == "FAILED":
        assert len(asked) == 2, "no evaluation of what failed, and the next run is made"
        assert done.stderr.splitlines()[-1] == "failed: quickstart_cpu/GRPO quickstart_cpu/RPG-REINFORCE-URKL"
        return
    assert [line.split()[0] for line in asked] == ["submit", "evaluation.run"] * 2 + ["evaluation.report"]
    for folder, (submitted, evaluated) in zip(runs, (asked[:2], asked[2:4]), strict=True):
        assert f"--ckpt.output_dir {folder}/model " in submitted
        assert submitted.endswith("--train.seed 7")
        assert evaluated.startswith(
            f"evaluation.run --checkpoints {folder} --output {folder}/evaluation --dp 1 --label "
        )
        assert evaluated.endswith("--n 2")
    report = " ".join(f"{folder}/evaluation" for folder in runs)
    assert asked[4] == f"evaluation.report {report} --output {tmp_path / 'out' / 'report-smoke'}"
