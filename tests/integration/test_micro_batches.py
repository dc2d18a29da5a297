"""How a step's samples are cut into micro-batches does not change its gradient."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parent / "gradient_of_one_step.py"


@pytest.mark.parametrize("stage", [2, 3])
def test_gradient_does_not_depend_on_micro_batches(tiny, tmp_path, stage):
    """One batch of 8, four of 2, and packed dynamic ones, which upstream gets wrong under ZeRO-2."""
    out = tmp_path / "gradients.pt"
    done = subprocess.run([sys.executable, SCRIPT, tiny[0], str(stage), out], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    gradients = torch.load(out)
    whole = gradients["whole"]
    assert whole.norm() > 0
    for way in ("split", "dynamic"):
        assert (gradients[way] - whole).norm() <= 1e-5 * whole.norm(), way
