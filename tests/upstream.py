"""OpenRLHF for tests that import it: without CUDA it can be imported only through the CPU platform."""

import os
from unittest import mock

import torch

from rpg_openrlhf import cpu_platform


def make_importable() -> None:
    """Call before the first import of openrlhf, here or of a module of rpg_openrlhf.trainer that imports it."""
    if torch.cuda.is_available():
        return
    # Undone: the commands that other tests start must set what they need themselves. DeepSpeed chooses its accelerator
    # when it is imported.
    with mock.patch.dict(os.environ):
        cpu_platform.install()
        import openrlhf.models  # noqa: F401
