"""Optimizer settings that changed before a resume act from the next step on, with the moments of the checkpoint."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("resumed_optimizer.py")


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_the_next_step_is_that_of_the_new_settings(tmp_path, stage):
    done = subprocess.run([sys.executable, SCRIPT, str(stage), tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    difference = float(done.stdout.rpartition("difference")[2])
    assert difference < 1e-7
