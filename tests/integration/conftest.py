"""The real command on a tiny model: Ray, DeepSpeed and vLLM, on the CPU."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
QUICKSTART = ROOT / "examples" / "quickstart"


# The longest first, so that two workers end together (`--no-loadscope-reorder`).
LONGEST = ("test_resume.py", "test_resharding.py", "test_lora.py", "test_equal_runs.py", "test_asynchronous.py")


def pytest_collection_modifyitems(items):
    """Mark everything here as starting the real stack, and order it."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slow)


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


def environment() -> dict[str, str]:
    """Ours, without a Ray cluster that somebody else may have started."""
    return {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}


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
    return make_tiny(tmp_path_factory.mktemp("tiny"))


def make_tiny(folder: Path) -> tuple[Path, Path]:
    """The quickstart's model after two supervised steps, and 48 problems."""
    for command in (
        ["warm_up.py", "--out", folder / "model", "--steps", 2],
        ["arithmetic.py", "--out", folder / "data", "--rl", 48, "--heldout", 8],
    ):
        script, *flags = map(str, command)
        subprocess.run([sys.executable, QUICKSTART / script, *flags], check=True, capture_output=True)
    return folder / "model", folder / "data" / "rl.jsonl"


@pytest.fixture
def train(tiny, tmp_path):
    """Run the launcher, or another entry point with its flags, to the end."""

    def run(*flags: str, name: str = "run", entry=("-m", "rpg_openrlhf.commands.train_rpg"), env=None) -> Run:
        out = tmp_path / name
        command = [sys.executable, *entry, *base_flags(*tiny, out), *flags]
        done = subprocess.run(command, capture_output=True, text=True, timeout=400, env=environment() | (env or {}))
        output = done.stdout + done.stderr
        if done.returncode:
            log = out / "logs" / "train.log"
            tail = log.read_text(encoding="utf-8", errors="replace")[-3000:] if log.exists() else ""
            output += f"\n--- {log} ---\n{tail}"
        return Run(done.returncode, output, out / "logs")

    return run
