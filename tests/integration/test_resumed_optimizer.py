"""Optimizer settings that changed before a resume act from the next step on, with the moments of the checkpoint."""

import pytest


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_the_next_step_is_that_of_the_new_settings(ranks, tmp_path, stage):
    (output,) = ranks.run("resumed_optimizer", stage, tmp_path, folder=tmp_path)
    (line,) = (line for line in output.splitlines() if line.startswith("difference "))
    assert float(line.removeprefix("difference ")) < 1e-7
