"""CUDA IPC between two processes on one GPU: mapped once, and read anew for every bucket."""

import subprocess
import sys

import pytest
import torch

POLICY = """
import os, pickle, sys, torch
import torch.distributed as dist
from openrlhf.trainer.ray.utils import get_physical_gpu_id
from rpg_openrlhf.weight_sync.transports import CudaIpc
dist.init_process_group("gloo", init_method="file://" + sys.argv[1], rank=0, world_size=1)
transport = CudaIpc(1 << 20, get_physical_gpu_id())
print(pickle.dumps(transport.address).hex(), flush=True)
for bucket in (7, 8):
    transport.buffers[0].fill_(bucket)
    transport.fence()
    print("packed", flush=True)
    sys.stdin.readline()
"""
ENGINE = """
import pickle, sys, torch
from types import SimpleNamespace
torch.cuda.set_device(0)
receive = pickle.loads(bytes.fromhex(sys.argv[1])).open(SimpleNamespace(device=torch.device("cuda", 0)))
for line in sys.stdin:
    print(receive(0, 1 << 20).unique().tolist(), flush=True)
"""


def start(code: str, argument: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", code, argument], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_an_engine_reads_what_the_policy_packed_last(tmp_path):
    policy = start(POLICY, str(tmp_path / "rendezvous"))
    engine = start(ENGINE, policy.stdout.readline().strip())
    try:
        for bucket in (7, 8):
            assert policy.stdout.readline() == "packed\n"
            engine.stdin.write("\n")
            assert engine.stdout.readline() == f"[{bucket}]\n"
            policy.stdin.write("\n")
    finally:
        for process in (policy, engine):
            process.kill()
            process.wait()
