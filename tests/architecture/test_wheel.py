"""What is installed is whole: the YAML, the templates and the page's parts beside the modules."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("rpg_openrlhf", "evaluation")


def files(root: Path) -> set[str]:
    found = [path for package in PACKAGES for path in (root / package).rglob("*") if path.is_file()]
    return {str(path.relative_to(root)) for path in found if path.parent.name != "__pycache__"}


def test_every_file_of_the_packages_is_installed(tmp_path):
    command = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    assert files(tmp_path) == files(ROOT)
    assert "evaluation/problems/benchmarks.yaml" in files(ROOT)
