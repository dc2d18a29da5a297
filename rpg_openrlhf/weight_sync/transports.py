"""Transports of a bucket's bytes from the policy to the engines: two ends with one interface each.

The policy's end has `buffers`, one per slot, into which the sender packs. The sender calls `fence()` after packing
and `send(slot, n)` after calling the engines; with `send_blocks` the latter blocks until all engines take part. An
engine's end is the `Receive` of `address.open(worker)`: called with slot and n, it returns the bytes. With two slots
a bucket is packed while the engines load the previous one.
"""

import mmap
import os
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist

Receive = Callable[[int, int], torch.Tensor]
TOKEN = 16  # random bytes at the end of a shared file, which identify this run's file


class Broadcast:
    """Transport over upstream's group of policy rank 0 and all workers: NCCL, or gloo on the CPU platform."""

    slots = 1  # two engines may start two calls in different order, and each would wait for the other's bucket

    def __init__(self, group, nbytes: int, device: torch.device):
        self.send_blocks = torch.device(device).type == "cpu"  # gloo; NCCL only queues the transfer
        self.group, self.buffers = group, [torch.empty(nbytes, dtype=torch.uint8, device=device)]
        self.address = BroadcastAddress(nbytes)

    def fence(self) -> None:
        """Do nothing: the stream keeps the order."""

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

    It is an unnamed file (memfd), which engines open through this process. Nothing is left if a process is killed.
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
        """Do nothing: engines see the memory itself."""

    def send(self, slot: int, nbytes: int) -> None:
        """Do nothing: engines see the memory itself."""


def _mapped(file: int) -> torch.Tensor:
    return torch.frombuffer(mmap.mmap(file, os.fstat(file).st_size), dtype=torch.uint8)


@dataclass(frozen=True)
class SharedMemoryAddress:
    path: str
    nbytes: int
    token: bytes

    def open(self, worker) -> Receive:
        """Map the memory. Raise RuntimeError if the path does not lead to it, such as on another host."""
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
    """A buffer on each policy rank's GPU that the worker on the same GPU maps; exported once.

    Every rank packs, because a worker sees only its own GPU.
    """

    slots, send_blocks = 1, False

    def __init__(self, nbytes: int, gpu: str):
        from torch.multiprocessing.reductions import reduce_tensor

        self.buffers = [torch.empty(nbytes, dtype=torch.uint8, device="cuda")]
        handles = [None] * dist.get_world_size()
        dist.all_gather_object(handles, {gpu: reduce_tensor(self.buffers[0])})
        self.address = CudaIpcAddress({gpu: handle for part in handles for gpu, handle in part.items()})

    def fence(self) -> None:
        """Wait for this rank's kernels, then for all ranks."""
        torch.cuda.synchronize()
        dist.barrier()

    def send(self, slot: int, nbytes: int) -> None:
        """Do nothing: workers see the buffer itself."""


@dataclass(frozen=True)
class CudaIpcAddress:
    handles: dict[str, tuple]

    def open(self, worker) -> Receive:
        from openrlhf.trainer.ray.utils import get_physical_gpu_id

        rebuild, args = self.handles[get_physical_gpu_id()]
        # Argument 6 is the device's index, which differs under another CUDA_VISIBLE_DEVICES.
        buffer = rebuild(*args[:6], worker.device.index, *args[7:])
        return lambda _slot, nbytes: buffer[:nbytes]
