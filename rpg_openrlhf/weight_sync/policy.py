"""The policy's trainer with bucketed weight sync: choice of weights and transport, gathering of shards."""

import contextlib

import deepspeed
import torch
from deepspeed.module_inject.layers import GatherReplacedLayerParams
from openrlhf.trainer.ray.ppo_actor import ActorPPOTrainer
from openrlhf.trainer.ray.utils import get_physical_gpu_id
from openrlhf.utils.distributed_util import torch_dist_barrier_and_cuda_sync

from rpg_openrlhf.weight_sync import transports
from rpg_openrlhf.weight_sync.adapters import engine_weights, quantization
from rpg_openrlhf.weight_sync.plan import make_plan
from rpg_openrlhf.weight_sync.sender import WeightSender

BUCKET_BYTES = {"cuda": 2**30, "cpu": 2**26}  # by the device of the weights


class BucketedSync(ActorPPOTrainer):
    """Differs from upstream's ActorPPOTrainer in sending weights to the engines by the bucket, not one by one."""

    bucket_bytes: int | None = None  # unset: BUCKET_BYTES

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if self.vllm_engines is not None:
            self.sender = self._connect()

    def _init_vllm_sync_group(self, backend):
        """Differs from upstream: shared memory needs no group."""
        if backend != "shm":
            super()._init_vllm_sync_group(backend)

    def broadcast_to_vllm(self):
        """Differs from upstream: one call and transfer per bucket, then a commit, which resets the prefix cache."""
        self.sender.push()
        torch.cuda.empty_cache()
        torch_dist_barrier_and_cuda_sync()

    def _connect(self) -> WeightSender:
        # named_parameters() lists a tied weight once, and engines tie it as the policy does.
        partly = getattr(self.actor, "is_vlm", False)  # engines keep the vision encoder, which is frozen
        named, adapters = engine_weights(self.actor.model.module)
        named = {name: weight for name, weight in named.items() if weight.requires_grad or not partly}
        cap = self.bucket_bytes or BUCKET_BYTES[next(iter(named.values())).device.type]
        # Weights with adapters come first, in their own buckets: after one whole sync only they change.
        parts = [{n: w for n, w in named.items() if (n in adapters) == adapted} for adapted in (True, False)]
        plan = sum((make_plan(self._described(part), cap) for part in parts), ())
        is_first = torch.distributed.get_rank() == 0
        transport = self._transport(max(bucket.nbytes for bucket in plan)) if is_first or self.use_cuda_ipc else None
        engines = self.vllm_engines if is_first else []
        return WeightSender(plan, named, engines, transport, self._gathered, not partly, adapters)

    def _described(self, weights: dict[str, torch.nn.Parameter]) -> list[tuple[str, torch.Size, torch.dtype]]:
        return [
            (name, self._whole_shape(weight), getattr(quantization(weight), "dtype", weight.dtype))
            for name, weight in weights.items()
        ]

    def _transport(self, nbytes: int):
        if self.use_cuda_ipc:
            return transports.CudaIpc(nbytes, get_physical_gpu_id())
        if self.args.vllm.sync_backend == "shm":
            return transports.SharedMemory(nbytes)
        return transports.Broadcast(self._model_update_group, nbytes, torch.cuda.current_device())

    def _whole_shape(self, weight: torch.nn.Parameter) -> torch.Size:
        if (packed := quantization(weight)) is not None:  # whole on every rank: ZeRO 3 is refused
            return packed.shape
        if self.args.ds.zero_stage == 3:
            return weight.ds_shape
        with self._gathered([weight]):
            return weight.shape

    @contextlib.contextmanager
    def _gathered(self, weights: list[torch.nn.Parameter]):
        """Gather these weights, and no others, whole on every rank inside."""
        module = self.actor.model.module
        with contextlib.ExitStack() as stack:
            if self.args.ds.tensor_parallel_size > 1:
                for weight in weights:
                    stack.enter_context(GatherReplacedLayerParams([weight], module, enabled=True))
            elif self.args.ds.zero_stage == 3:
                stack.enter_context(deepspeed.zero.GatheredParameters(weights))
            yield
