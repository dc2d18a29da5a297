"""Resume on another number of ranks, under another ZeRO stage: nothing changes but who holds what."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = "tests.integration.resharded_steps"
ROOT = Path(__file__).parents[2]
STEPS = 2


def run(world: int, *arguments) -> dict:
    port = str(random.SystemRandom().randrange(20_000, 32_768))
    common = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(world)}
    command = [sys.executable, "-m", SCRIPT, *map(str, arguments)]
    ranks = []
    for rank in range(world):
        own = {**common, "RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"}
        ranks.append(
            subprocess.Popen(command, env=own, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
    try:
        outputs = [rank.communicate(timeout=300) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0] * world, "\n".join(error[-3000:] for _, error in outputs)
    return json.loads(outputs[0][0].splitlines()[-1])


@pytest.mark.parametrize(
    ("dtype", "way"),
    [("fp32", [(2, 2), (1, 3), (2, 3), (1, 1), (2, 2)]), ("bf16", [(2, 3), (1, 2), (2, 1)])],
)
def test_other_ranks_and_stages_go_on_as_if_nothing_had_changed(tmp_path, dtype, way):
    """(ranks, ZeRO stage) after (ranks, ZeRO stage), two steps each, against one rank that takes them all."""
    undisturbed = run(1, 2, dtype, STEPS * len(way), tmp_path / "undisturbed")
    losses, source = [], []
    for number, (ranks, stage) in enumerate(way):
        found = run(ranks, stage, dtype, STEPS, tmp_path / str(number), *source)
        assert found["wrong"] == []
        assert found["steps"] == STEPS * (number + 1)
        assert found["reference"] == pytest.approx(undisturbed["reference"], abs=1e-6 if dtype == "fp32" else 1e-2)
        losses += found["losses"]
        source = [tmp_path / str(number), ranks]
    assert losses == pytest.approx(undisturbed["losses"], abs=1e-5 if dtype == "fp32" else 2e-2)
