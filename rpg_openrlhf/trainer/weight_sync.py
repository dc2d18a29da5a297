"""Policy to vLLM where NCCL and CUDA IPC cannot run: upstream's loop over the parameters, carried by gloo.

What differs from openrlhf/trainer/ray/vllm_worker_wrap.py and utils/distributed_util.py is the communicator and the
device a weight is received on.
"""

import os

import torch
import torch.distributed as dist

from rpg_openrlhf.trainer import cpu_platform

if os.environ.get("RPG_PLATFORM") == "cpu":  # vLLM starts its workers itself: Ray's set-up hook never runs there
    cpu_platform.install()

from openrlhf.trainer.ray.vllm_worker_wrap import WorkerWrap


class GlooCommunicator:
    """A process group of its own between policy rank 0 and the engines, with PyNcclCommunicator's `broadcast`."""

    def __init__(self, host: str, port: int, rank: int, world_size: int):
        from vllm.distributed.utils import stateless_init_torch_distributed_process_group

        self.group = stateless_init_torch_distributed_process_group(host, port, rank, world_size, backend="gloo")

    def broadcast(self, tensor: torch.Tensor, src: int, stream: object = None) -> None:
        """Overwrite `tensor` with rank `src`'s, in place."""
        options = dist.BroadcastOptions()
        options.rootRank, options.rootTensor = src, 0
        # As bytes: gloo need not know the dtype. reshape(-1) is a view of a contiguous parameter.
        self.group.broadcast([tensor.detach().reshape(-1).view(torch.uint8)], options).wait()


class CPUWorkerExtension(WorkerWrap):
    """Receives weights in host memory."""

    def update_weight(self, name: str, dtype: torch.dtype, shape: torch.Size, empty_cache: bool = False) -> None:
        """Differs from upstream in the device of the buffer, "cuda" there."""
        assert dtype == self.model_config.dtype, f"mismatch dtype: src {dtype}, dst {self.model_config.dtype}"
        weight = torch.empty(shape, dtype=dtype)
        self._model_update_group.broadcast(weight, src=0)
        self.model_runner.model.load_weights(weights=[(name, weight)])

    def get_weight(self, name: str) -> torch.Tensor:
        """The engine's own parameter, for the tests that compare it with the policy's."""
        return dict(self.model_runner.model.named_parameters())[name].detach().clone()
