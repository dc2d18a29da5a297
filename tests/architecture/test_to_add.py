"""The patches of CONTRIBUTING.md, applied to a copy: each makes what it adds work, with nothing else changed."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PATCHES = re.findall(r"```diff\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.DOTALL)
TRIES = {
    "divergences.py": """
import torch
from rpg_openrlhf.objectives.losses import rpg_token_losses
from rpg_openrlhf.settings import parser
assert parser.parse(["--rpg.divergence", "chi2"]).values["rpg.divergence"] == "chi2"
logits = [torch.randn(7, dtype=torch.float64) for _ in range(3)]
leaf = logits[0].requires_grad_()
new, old, ref = leaf.log_softmax(0), logits[1].log_softmax(0), logits[2].log_softmax(0)
(exact,) = torch.autograd.grad((new.exp() * (new - ref).exp()).sum(), leaf, retain_graph=True)
for estimator in ("differentiable", "reinforce"):
    options = {"divergence": "chi2", "gradient_estimator": estimator, "beta": 1.0}
    losses = rpg_token_losses(new[:, None], old[:, None], torch.zeros(7, 1), ref[:, None], **options).losses
    (found,) = torch.autograd.grad((old.exp() * losses[:, 0]).sum(), leaf, retain_graph=True)
    torch.testing.assert_close(found, exact)
try:
    rpg_token_losses(new[:, None], old[:, None], torch.zeros(7, 1), ref[:, None], **options, importance_level="prefix")
except ValueError as error:
    assert "chain rule" in str(error)
else:
    raise AssertionError("the sum over tokens is not the divergence of replies")
""",
    "schedule.py": """
from rpg_openrlhf.reference.schedule import RefreshSchedule
from rpg_openrlhf.settings import parser, reference_checks, rules, run_settings
flags = ["--ref.refresh", "doubling", "--vllm.num_engines", "1"]
def refusal(*more):
    return rules.first(reference_checks.REFERENCE, run_settings.nested(parser.parse([*flags, *more]).values))
assert refusal("--ref.interval", "64") is None
schedule = RefreshSchedule("doubling", 64, None, None, None)
moves = [rollout for rollout in range(1, 20) if schedule.update(0.0, 32).refresh]
assert moves == [2, 6, 14], moves  # after 64, 128 and 256 steps
assert "needs --ref.interval" in refusal()
""",
    "benchmarks.yaml": """
from evaluation.problems.benchmarks import known
assert "gsm8k_tiny" in known()
""",
}


@pytest.mark.parametrize("name", list(TRIES))
def test_a_patch_is_all_that_it_takes(name, tmp_path):
    (patch,) = [patch for patch in PATCHES if re.search(rf"^\+\+\+ b/.*{re.escape(name)}$", patch, re.MULTILINE)]
    for package in ("rpg_openrlhf", "evaluation"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    applied = subprocess.run(
        ["git", "apply", "-p1", "--recount", "-"],
        cwd=tmp_path,
        input=patch,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert applied.returncode == 0, applied.stdout + applied.stderr
    done = subprocess.run(
        [sys.executable, "-c", TRIES[name]], cwd=tmp_path, capture_output=True, text=True, timeout=120,
        env={"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_every_patch_is_tried():
    assert len(PATCHES) == len(TRIES)
