"""The files for containers and clusters, as far as they can be read without one: the flags that they give parse."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from rpg_openrlhf.settings import parser

ROOT = Path(__file__).resolve().parents[2]


def command_of(name: str) -> list[str]:
    """The launcher's arguments in a file for a cluster, with the layers of this checkout."""
    content = yaml.safe_load((ROOT / "examples" / "cluster" / name).read_text(encoding="utf-8"))
    text = content["spec"]["entrypoint"] if name == "kuberay.yaml" else content["run"]
    flags = re.split(r"commands\.train_rpg\s", text.replace("\\\n", " "))[1].rstrip('"\n ')
    return shlex.split(flags.replace("/opt/rpg/configs", "configs").replace("configs/", f"{ROOT}/configs/"))


@pytest.mark.parametrize("name", ["kuberay.yaml", "skypilot.yaml"])
def test_the_run_of_a_cluster_file_parses(name):
    parsed = parser.parse(command_of(name))
    assert parsed.values["actor.num_gpus_per_node"] == 8
    assert parsed.values["platform"] == "cuda"


def test_the_dockerfile_installs_by_the_makefile():
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert "make install-gpu" in text
    assert text.index("USER rpg") < text.index("make install-gpu"), "not as root"
    assert re.search(r"^HEALTHCHECK .* rpg-check", text, re.MULTILINE)
