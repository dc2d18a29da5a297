"""How a step's samples are cut into micro-batches does not change its gradient."""

import pytest
import torch


@pytest.mark.parametrize("stage", [2, 3])
def test_gradient_does_not_depend_on_micro_batches(ranks, tiny, tmp_path, stage):
    """One batch of 8, four of 2, and packed dynamic ones, which upstream gets wrong under ZeRO-2."""
    out = tmp_path / "gradients.pt"
    ranks.run("gradient_of_one_step", tiny[0], stage, out, folder=tmp_path)
    gradients = torch.load(out)
    whole = gradients["whole"]
    assert whole.norm() > 0
    for way in ("split", "dynamic"):
        assert (gradients[way] - whole).norm() <= 1e-5 * whole.norm(), way
