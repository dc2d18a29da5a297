"""After a sync every engine holds the policy's weights to the bit, and a policy killed in one leaves no harm."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """Where three engines and the ranks of seven policies have left what they found."""
    if torch.cuda.is_available():
        pytest.skip("the CPU platform is for machines without CUDA")
    folder = tmp_path_factory.mktemp("sync")
    command = [sys.executable, "-m", "tests.integration.weight_sync_engines", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400)
    logs = "\n".join(f"{log.name}: {log.read_text()[-1500:]}" for log in sorted(folder.glob("*.log")))
    assert done.returncode == 0, done.stderr[-3000:] + logs
    assert json.loads((folder / "report.json").read_text())["two ranks"] == [0, 0], logs
    return folder


@pytest.mark.parametrize("world", [1, 2])
def test_engines_hold_the_policys_weights(finished, world):
    """ZeRO-0, 2 and 3; tied and untied; one and two engines; shared memory and gloo; one bucket and several."""
    found = json.loads((finished / f"ranks{world}.json").read_text())
    assert len(found) == {1: 3, 2: 5}[world]
    failed = {case: [name for name, held in checks.items() if not held] for case, checks in found.items()}
    assert not any(failed.values()), failed
    assert all(len(checks) >= 3 for checks in found.values())


def test_a_sync_that_was_killed_is_noticed_and_mended_by_the_next(finished):
    report = json.loads((finished / "report.json").read_text())
    assert report["one rank"] == [-9]
    assert "weight sync 1 was interrupted: this engine holds a mixture of old and new weights" in report["refusal"]
    assert report["refusal after another sync"] == ""
    assert report["killed by itself"] == {"memory": ["/memfd:weight_sync (deleted)"], "named": []}
