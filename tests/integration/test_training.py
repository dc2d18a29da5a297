"""The command as a Ray job on a cluster that is already there, and with upstream's loss: progress, logs, status."""

import itertools
import json
import math
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

import pytest
import yaml
from transformers import AutoModelForCausalLM

from tests import logged_keys, three_logs
from tests.integration import conftest
from tests.integration.conftest import Run, base_flags, finite_steps
from tests.logged_keys import BESIDE

RAY = Path(sys.executable).parent / "ray"


def environment() -> dict[str, str]:
    """Of a cluster on loopback, which may take its time to start."""
    loopback = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}  # Ray's name for: no other machine joins
    return {**conftest.environment(), **loopback, "RAY_DASHBOARD_SUBPROCESS_MODULE_WAIT_READY_TIMEOUT": "180"}


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
    """The job address of a Ray head with two virtual GPUs, on loopback."""
    temp = tempfile.mkdtemp(prefix="rpg.")  # short: Ray's socket paths have a length limit
    dashboard, client, agent = free_ports(3)
    command = [RAY, "start", "--head", "--block", "--temp-dir", temp, "--node-ip-address", "127.0.0.1", "--port", "0"]
    command += ["--num-gpus", "2", "--num-cpus", "4", "--dashboard-host", "127.0.0.1"]
    command += ["--dashboard-port", str(dashboard), "--ray-client-server-port", str(client)]
    command += ["--dashboard-agent-listen-port", str(agent)]
    head = subprocess.Popen(
        list(map(str, command)), stdout=subprocess.DEVNULL, env=environment(), start_new_session=True
    )
    deadline = time.monotonic() + 240
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


def check_three_logs(run, tmp_path) -> None:
    """metrics.jsonl, TensorBoard and W&B: the same names, steps and values; W&B's configuration is config.yaml."""
    lines = (run.run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    expected: dict[int, dict[str, float]] = {}
    for row in map(json.loads, lines):
        expected.setdefault(int(row["step"]), {}).update({k: v for k, v in row.items() if k not in BESIDE})
    assert sorted(expected) == [1, 2, 3]
    (folder,) = (tmp_path / "tensorboard").iterdir()
    (offline,) = (tmp_path / "wandb").glob("offline-run-*")
    steps, config, about = three_logs.wandb(offline)
    assert steps == expected
    shown = three_logs.tensorboard(folder)
    assert {step: set(row) for step, row in shown.items()} == {step: set(row) for step, row in expected.items()}
    for step, row in expected.items():
        assert shown[step] == {name: pytest.approx(value, rel=1e-6) for name, value in row.items()}, "float32"
    resolved = yaml.safe_load((run.run_dir / "config.yaml").read_text(encoding="utf-8"))
    assert {name: config[name] for name in resolved} == resolved
    assert (about["name"], about["group"]) == (folder.name, "rpg_reinforce_urkl")
    assert about["tags"] == ["a tag"]


def test_default_run(cluster, tiny, tmp_path):
    """RPG-REINFORCE-URKL, π_ref = π_old: progress, three logs, two benchmarks, resolved config and a model to load.

    A job that trains succeeds; one that asks for more GPUs than there are fails at once, with the fix.
    """
    sums = tmp_path / "sums.jsonl"
    sums.write_text("".join(tiny[1].read_text().splitlines(keepends=True)[:6]))
    launcher = [sys.executable, "-m", "rpg_openrlhf.commands.train_rpg", *base_flags(*tiny, tmp_path / "run")]
    done = submit(
        cluster,
        *("env", "WANDB_MODE=offline", f"WANDB_DIR={tmp_path}", "WANDB_TAGS=a tag", *launcher),
        *("--logger.tensorboard_dir", str(tmp_path / "tensorboard"), "--actor.dual_clip", "10"),
        *("--eval.dataset", f"{tiny[1].with_name('heldout.jsonl')},{sums}", "--eval.steps", "2"),
        *("--eval.n_samples_per_prompt", "4", "--ckpt.best_metric_key", "eval/heldout/pass@4"),
        *("--logger.wandb.key", "a-word-nobody-should-read"),
    )
    run = Run(done.returncode, done.stdout + done.stderr, tmp_path / "run" / "logs")
    for step in finite_steps(run):
        weights = [step[f"policy/importance_weight_{name}"] for name in ("min", "mean", "max")]
        assert weights == sorted(weights)
        assert weights[1] == pytest.approx(1, abs=0.05)
        assert 0 < step["policy/effective_sample_size"] <= 1
        assert 0 <= step["policy/kl_ref_k3"] == step["policy/kl_old_k3"]
        for name in ("gated_low", "gated_high", "gated_dual", "regularized_advantage", "kl_old_k1", "kl_ref_k1"):
            assert f"policy/{name}" in step
        assert 0 < step["entropy_loss"] <= math.log(128)
    first, *later = (step["reward"] for step in run.metrics)
    assert max(later) > first, "digits are easy to learn"
    assert run.output.count("step ") >= 3
    assert "ETA" in run.output
    # W&B's own service says goodbye with one, ignored by Python, when the machine is busy.
    lines = run.log.splitlines()
    assert not [
        line
        for before, line in itertools.pairwise(lines)
        if "Traceback" in line and "atexit callback: <function _start_and_connect_service" not in before
    ]
    check_three_logs(run, tmp_path)
    evaluated = run.reports("eval")
    assert [row["step"] for row in evaluated] == [2]
    assert evaluated[0]["eval/num_samples"] == 4 * (8 + 6)
    logged_keys.check(
        {*run.metrics[0], *evaluated[0]},
        *("RPG", "entropy", "group", "score", "grader", "evaluation", "samples"),
    )
    (best,) = (run.run_dir.parent / "checkpoints" / "_actor").glob("best_*")
    record = json.loads((best / "checkpoint.json").read_text(encoding="utf-8"))
    assert record["metric_key"] == "eval/heldout/pass@4"
    assert record["metric_value"] == evaluated[0]["eval/heldout/pass@4"]
    assert "a-word-nobody-should-read" not in run.log
    AutoModelForCausalLM.from_pretrained(run.run_dir.parent / "model")
    assert re.search(r"step 3/3 .*reward", run.output)
    assert "tqdm" not in run.output
    assert "Generate samples" not in run.output
    refused = submit(cluster, *launcher, "--vllm.num_engines", "4")
    assert refused.returncode != 0
    assert re.search(r"needs 5 GPUs, the Ray cluster has 2: ray start .*--num-gpus 5", refused.stdout)


def test_grpo_runs_upstreams_loss(train, tmp_path):
    """The same launcher and logs with upstream's loss, k3 KL to a fixed reference; W&B disabled, its key unseen."""
    run = train(
        *("--algo.objective", "openrlhf", "--algo.advantage.estimator", "group_norm", "--algo.kl.use_loss"),
        *("--algo.kl.estimator", "k3", "--algo.kl.init_coef", "1e-3", "--actor.eps_clip_low_high", "0.2", "0.2"),
        *("--logger.wandb.key", "a-word-nobody-should-read"),
        env={"WANDB_MODE": "disabled", "WANDB_DIR": str(tmp_path)},
    )
    assert not (tmp_path / "wandb").exists()
    assert "a-word-nobody-should-read" not in run.log
    steps = finite_steps(run)
    assert "policy/kl_ref_k3" not in steps[0]
    assert steps[-1]["kl"] > 0
    logged_keys.check(set(steps[0]), "entropy", "group", "score", "grader")
