"""Transports of a bucket's bytes from the policy to the engines, each in two ends under one interface.

The policy's end: `buffers`, one per slot, that the sender packs into; `fence()` when it has packed; `send(slot, n)`
when the engines have been called, which blocks until all take part where `send_blocks`. An engine's end comes of
`address.open(worker)`, a `Receive`: called with slot and n it gives the bytes. With two slots a bucket is packed
while the engines load the one before it.
"""

import mmap
import os
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist

Receive = Callable[[int, int], torch.Tensor]
TOKEN = 16  # bytes at the end of a shared file that only this run's has


class Broadcast:
    """Over upstream's group of policy rank 0 and all workers: NCCL, or gloo on the CPU platform."""

    slots = 1  # engines may start two calls in either order, and would wait in each for the other's bucket

    def __init__(self, group, nbytes: int, device: torch.device):
        self.send_blocks = torch.device(device).type == "cpu"  # gloo; NCCL only queues the transfer
        self.group, self.buffers = group, [torch.empty(nbytes, dtype=torch.uint8, device=device)]
        self.address = BroadcastAddress(nbytes)

    def fence(self) -> None:
        """The stream keeps the order."""

    def send(self, slot: int, nbytes: int) -> None:
        self.group.broadcast(self.buffers[slot][:nbytes], src=0, stream=torch.cuda.current_stream())


@dataclass(frozen=True)
class BroadcastAddress:
    nbytes: int

    def open(self, worker) -> Receive:
        buffer = torch.empty(self.nbytes, dtype=torch.uint8, device=worker.device)

        def receive(_slot: int, nbytes: int) -> torch.Tensor:
            worker._model_update_group.broadcast(buffer[:nbytes], src=0, stream=torch.cuda.current_stream())
            return buffer[:nbytes]

        return receive


class SharedMemory:
    """Memory of policy rank 0 that engines on this host map.

    A file without a name (memfd), which they open by way of this process: whoever is killed, nothing stays behind.
    """

    slots, send_blocks = 2, False

    def __init__(self, nbytes: int):
        self.file = os.memfd_create("weight_sync")
        os.ftruncate(self.file, self.slots * nbytes + TOKEN)
        memory = _mapped(self.file)
        token = os.urandom(TOKEN)
        memory[-TOKEN:] = torch.frombuffer(bytearray(token), dtype=torch.uint8)
        self.buffers = list(memory[:-TOKEN].split(nbytes))
        self.address = SharedMemoryAddress(f"/proc/{os.getpid()}/fd/{self.file}", nbytes, token)

    def fence(self) -> None:
        """Nothing to do: engines see the memory itself."""

    def send(self, slot: int, nbytes: int) -> None:
        """It is there."""


def _mapped(file: int) -> torch.Tensor:
    return torch.frombuffer(mmap.mmap(file, os.fstat(file).st_size), dtype=torch.uint8)


@dataclass(frozen=True)
class SharedMemoryAddress:
    path: str
    nbytes: int
    token: bytes

    def open(self, worker) -> Receive:
        """RuntimeError where the path leads elsewhere: to another host's process of that number, or nowhere."""
        try:
            file = os.open(self.path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                memory = _mapped(file)
            finally:
                os.close(file)  # the mapping stays
        except (OSError, ValueError) as error:
            raise RuntimeError(f"{self._foreign()} ({error})") from None
        if bytes(memory[-TOKEN:].tolist()) != self.token:
            raise RuntimeError(self._foreign())
        buffers = memory[:-TOKEN].split(self.nbytes)
        return lambda slot, nbytes: buffers[slot][:nbytes]

    @staticmethod
    def _foreign() -> str:
        return "--vllm.sync_backend shm: an engine cannot reach the policy's memory, as on another host; use gloo"


class CudaIpc:
    """A buffer on each policy rank's GPU that the worker on the same GPU maps; exported once, and kept.

    Every rank packs, as a worker sees its own GPU alone.
    """

    slots, send_blocks = 1, False

    def __init__(self, nbytes: int, gpu: str):
        from torch.multiprocessing.reductions import reduce_tensor

        self.buffers = [torch.empty(nbytes, dtype=torch.uint8, device="cuda")]
        handles = [None] * dist.get_world_size()
        dist.all_gather_object(handles, {gpu: reduce_tensor(self.buffers[0])})
        self.address = CudaIpcAddress({gpu: handle for part in handles for gpu, handle in part.items()})

    def fence(self) -> None:
        """Wait for each rank's kernels, then for all ranks'."""
        torch.cuda.synchronize()
        dist.barrier()

    def send(self, slot: int, nbytes: int) -> None:
        """It is there."""


@dataclass(frozen=True)
class CudaIpcAddress:
    handles: dict[str, tuple]

    def open(self, worker) -> Receive:
        from openrlhf.trainer.ray.utils import get_physical_gpu_id

        rebuild, args = self.handles[get_physical_gpu_id()]
        # Argument 6 is the device's number, which another CUDA_VISIBLE_DEVICES counts otherwise.
        buffer = rebuild(*args[:6], worker.device.index, *args[7:])
        return lambda _slot, nbytes: buffer[:nbytes]
