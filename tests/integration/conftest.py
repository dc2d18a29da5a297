"""The real command on a tiny model: Ray, DeepSpeed and vLLM, on the CPU."""

import json
import math
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import torch

from tests.integration.ranks import Ranks
from tests.tiny import shared_tiny

# The longest first and what needs no real stack last, so that workers end together (`--no-loadscope-reorder`).
LONGEST = (
    "test_two_nodes.py", "test_resume.py", "test_asynchronous.py", "test_equal_runs.py", "test_lora.py",
    "test_resharding.py",
    "test_eval_run.py", "test_weight_sync.py", "test_schedule_free.py", "test_training.py",
    "test_eval_engine_process.py", "test_eval_ray_replicas.py",
)  # fmt: skip


def pytest_collection_modifyitems(items):
    """Mark everything here as starting the real stack, and order all tests."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slow)
    items.sort(
        key=lambda item: (
            "integration" not in item.path.parts,
            LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST),
        )
    )


@dataclass(frozen=True)
class Run:
    """A finished command and what it left."""

    returncode: int
    output: str
    run_dir: Path

    @property
    def metrics(self) -> list[dict]:
        """The reports of the training steps."""
        return self.reports("train")

    def reports(self, kind: str) -> list[dict]:
        """Those of another kind."""
        lines = (self.run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        return [report for report in map(json.loads, lines) if report["kind"] == kind]

    @property
    def log(self) -> str:
        """What the libraries said."""
        return (self.run_dir / "train.log").read_text(encoding="utf-8", errors="replace")


def finite_steps(run: Run, steps: int = 3) -> list[dict]:
    """Reports of the training steps of a run that ended well."""
    assert run.returncode == 0, run.output
    assert len(run.metrics) == steps
    for step in run.metrics:
        assert all(math.isfinite(value) for name, value in step.items() if name != "kind"), step
        assert step["actor_grad_norm"] > 0
    return run.metrics


def environment() -> dict[str, str]:
    """Ours, without a Ray cluster that somebody else may have started, or workers that Ray starts and nobody uses."""
    ours = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return ours | {"RAY_prestart_worker_first_driver": "0"}


def interruptible() -> None:
    """Before the command starts: a background shell has its children ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def interrupt(command: list[str], number: int, step: int) -> str:
    """Send a signal once a step is reported: a status that says so, and no process is left -> output."""
    run = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment(), preexec_fn=interruptible)
    output = ""
    for text in run.stdout:
        output += text
        if re.match(rf"step +{step}/", text):
            break
    assert run.poll() is None, output
    started = psutil.Process(run.pid).children(recursive=True)
    assert len(started) > 5
    run.send_signal(number)
    output += run.communicate(timeout=60)[0]
    assert run.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143}[number], output
    _, alive = psutil.wait_procs(started, timeout=30)
    assert not alive
    return output


def base_flags(model: Path, problems: Path, out: Path) -> list[str]:
    """Three rollouts of 16 prompts x 4 samples, two optimizer steps each."""
    settings = {
        "actor.model_name_or_path": model,
        "data.prompt_dataset": problems,
        "data.input_key": "input",
        "data.label_key": "label",
        "data.max_len": 48,
        "rollout.max_new_tokens": 20,
        "rollout.batch_size": 16,
        "rollout.n_samples_per_prompt": 4,
        "rollout.micro_batch_size": 32,
        "train.batch_size": 32,
        "train.micro_batch_size": 16,
        "actor.adam.lr": 1e-3,
        "actor.lr_scheduler": "constant",
        "actor.entropy_coef": 0,
        "actor.num_gpus_per_node": 1,
        "ref.num_gpus_per_node": 1,
        "vllm.num_engines": 1,
        "reward.remote_url": Path(__file__).parent / "digit_reward.py",
        "ckpt.output_dir": out / "model",
        "ckpt.path": out / "checkpoints",
        "logger.run_dir": out / "logs",
        "platform": "cpu",
    }
    return [part for name, value in settings.items() for part in (f"--{name}", str(value))]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> tuple[Path, Path]:
    """The quickstart's model after two supervised steps, and 48 problems."""
    if torch.cuda.is_available():
        pytest.skip("the CPU platform is for machines without CUDA")
    return shared_tiny(tmp_path_factory)


@pytest.fixture(scope="session")
def ranks() -> Iterator[Ranks]:
    """Ranks of a script under DeepSpeed, on the CPU."""
    if torch.cuda.is_available():
        pytest.skip("the CPU platform is for machines without CUDA")
    server = Ranks()
    yield server
    server.close()


@pytest.fixture
def train(tiny, tmp_path):
    """Run the launcher, or another entry point with its flags, to the end, or `until` (a signal, after a step)."""

    def run(*flags: str, name="run", entry=("-m", "rpg_openrlhf.commands.train_rpg"), env=None, until=None) -> Run:
        out = tmp_path / name
        command = [sys.executable, *entry, *base_flags(*tiny, out), *flags]
        if until:
            return Run(0, interrupt(command, *until), out / "logs")
        done = subprocess.run(command, capture_output=True, text=True, timeout=400, env=environment() | (env or {}))
        output = done.stdout + done.stderr
        if done.returncode:
            log = out / "logs" / "train.log"
            tail = log.read_text(encoding="utf-8", errors="replace")[-3000:] if log.exists() else ""
            output += f"\n--- {log} ---\n{tail}"
        return Run(done.returncode, output, out / "logs")

    return run
