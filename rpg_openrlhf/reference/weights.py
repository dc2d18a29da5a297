"""π_ref's weights: each rank holds its part of them, and swaps it with the policy's part to compute π_ref.

A part is what ZeRO gives this rank: the whole weights (0), its slice of the flat weights in use (1, 2), its slice of
each parameter (3). A refresh is then a copy within the rank. It copies the weights of the forward pass, usually bf16,
so that afterwards the log-probs of both policies are equal to the bit.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.runtime.utils import all_gather_dp_groups
from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer

from rpg_openrlhf import shards


class ReferenceWeights:
    """A copy of the policy at construction. The average of `--train.enable_ema` is held in the same way."""

    def __init__(self, engine: deepspeed.DeepSpeedEngine, *, offload: bool, mixed: bool, kind: str = "reference"):
        """offload: hold in host memory; mixed: hold in fp32, as bf16 would lose a small mix; kind: name of files."""
        self.engine, self.offload, self.mixed, self.kind = engine, offload, mixed, kind
        self.held = [self._copy_of(shard, torch.float32 if mixed else shard.dtype) for shard in self._live()]

    @torch.no_grad()
    def refresh(self, mix: float = 1.0) -> None:
        """ref <- mix · policy + (1 - mix) · ref, for this rank's part."""
        assert mix == 1 or self.mixed, "held in the policy's dtype, where a small mix would be lost"
        for held, live in zip(self.held, self._live(), strict=True):
            if mix == 1:
                held.copy_(live)
            else:
                held.lerp_(live.to(held.device).float(), mix)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Compute with the reference's weights inside the context, and restore the policy's also after an error.

        A collective under ZeRO 1 to 3: every rank enters and leaves.
        """
        policy = [self._copy_of(shard, shard.dtype) for shard in self._live()]
        try:
            self._write(self.held)
            yield
        finally:
            self._write(policy)

    def take(self, path: str, trust_remote_code: bool) -> None:
        """Hold the Hugging Face model at `path` instead of the policy. Raise ValueError if its weights do not fit."""
        policy = [self._copy_of(shard, shard.dtype) for shard in self._live()]
        try:
            self._read(path, trust_remote_code)
            self.refresh()
        finally:
            self._write(policy)

    def clear(self) -> None:
        """Hold zeros: with zero LoRA adapters the reference is the base model."""
        for held in self.held:
            held.zero_()

    def save(self, folder: str | Path) -> None:
        """Write this rank's part to its own file in `folder`, which must exist; without ZeRO rank 0 writes all."""
        if self.engine.zero_optimization_stage() or dist.get_rank() == 0:
            shards.write(folder, self.kind, self._pieces())

    def load(self, folder: str | Path) -> None:
        """Load the files of `save`, from any number of ranks. Raise ValueError if they are of another model."""
        there = shards.read(folder, self.kind)
        for name, piece in self._pieces().items():
            try:
                shards.fill(piece.values, piece.start, name, there.get(name, ()))
            except ValueError as error:
                raise ValueError(f"{folder}: its {self.kind} does not fit: {error}") from None

    def is_in(self, folder: str | Path) -> bool:
        """True if `folder` holds files of `save`."""
        return bool(shards.files(folder, self.kind))

    def _pieces(self) -> dict[str, shards.Piece]:
        """Views of the held values, by weight."""
        trained = [name for name, weight in self.engine.module.named_parameters() if weight.requires_grad]
        if isinstance(self.engine.optimizer, DeepSpeedZeroOptimizer):
            return {
                place.name: shards.Piece(place.start, self.held[place.group][place.offset :][: place.numel])
                for place in shards.places(self.engine)
            }
        if self.engine.zero_optimization_stage() == 3:
            held = dict(zip(trained, self.held, strict=True))
            return {
                place.name: shards.Piece(place.start, held[place.name][: place.numel])
                for place in shards.places(self.engine)
            }
        return {name: shards.Piece(0, held.flatten()) for name, held in zip(trained, self.held, strict=True)}

    def _copy_of(self, shard: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Copy a shard to the device where the reference is held."""
        device = torch.device("cpu") if self.offload else shard.device
        pinned = device.type == "cpu" and shard.is_cuda
        return torch.empty(shard.shape, dtype=dtype, device=device, pin_memory=pinned).copy_(shard)

    def _live(self) -> list[torch.Tensor]:
        """Views of this rank's part of the weights in use; made anew each time, as DeepSpeed may move the weights."""
        optimizer = self.engine.optimizer
        if self.engine.zero_optimization_stage() == 3:
            return [weight.ds_tensor.data for weight in self._trained()]
        if isinstance(optimizer, DeepSpeedZeroOptimizer):
            slices = zip(optimizer.parallel_partitioned_bit16_groups, optimizer.real_dp_process_group, strict=True)
            return [parts[dist.get_rank(group)].data for parts, group in slices]
        return [weight.data for weight in self._trained()]

    def _trained(self) -> list[torch.nn.Parameter]:
        """Weights that are trained. Policy and reference share frozen ones, such as the base model of LoRA."""
        return [weight for weight in self.engine.module.parameters() if weight.requires_grad]

    @torch.no_grad()
    def _write(self, shards: list[torch.Tensor]) -> None:
        """Overwrite this rank's part, and gather the other ranks' parts where whole weights are kept."""
        optimizer, stage3 = self.engine.optimizer, self.engine.zero_optimization_stage() == 3
        if stage3:
            optimizer.empty_partition_cache()  # gathered and prefetched weights are the old ones
        for live, new in zip(self._live(), shards, strict=True):
            live.copy_(new)
        if stage3 and optimizer.persistent_parameters:  # small ones, which are kept whole
            optimizer.persistent_parameters[0].all_gather(optimizer.persistent_parameters)
        if isinstance(optimizer, DeepSpeedZeroOptimizer):
            all_gather_dp_groups(
                groups_flat=optimizer.bit16_groups_flat,
                partitioned_param_groups=optimizer.parallel_partitioned_bit16_groups,
                dp_process_group=optimizer.real_dp_process_group,
                start_alignment_factor=optimizer.nccl_start_alignment_factor,
                allgather_bucket_size=optimizer.allgather_bucket_size,
            )

    @torch.no_grad()
    def _read(self, path: str, trust_remote_code: bool) -> None:
        """Load the model at `path` into the engine; only rank 0 reads it."""
        module, stage3 = self.engine.module, self.engine.zero_optimization_stage() == 3
        source: dict[str, torch.Tensor] = {}
        problem: list[str | None] = [None]
        if dist.get_rank() == 0:
            try:
                model = type(module).from_pretrained(path, trust_remote_code=trust_remote_code)
                source = dict(model.named_parameters())
                problem = [self._mismatch(source)]
            except Exception as error:  # every rank must raise, or the others wait for ever
                problem = [str(error)]
        dist.broadcast_object_list(problem, src=0)
        if problem[0]:
            raise ValueError(f"--ref.model_name_or_path {path}: cannot be the reference: {problem[0]}")
        for name, weight in module.named_parameters():
            with deepspeed.zero.GatheredParameters([weight], modifier_rank=0, enabled=stage3):
                if dist.get_rank() == 0:
                    weight.data.copy_(source[name])
            if not stage3:
                dist.broadcast(weight.data, src=0)

    def _mismatch(self, source: dict[str, torch.Tensor]) -> str | None:
        shapes = {name: getattr(w, "ds_shape", w.shape) for name, w in self.engine.module.named_parameters()}
        for name in sorted(shapes.keys() ^ source.keys()):
            return f"only {'the policy' if name in shapes else 'that model'} has {name}"
        wrong = [name for name in shapes if shapes[name] != source[name].shape]
        return (
            f"{wrong[0]} is {tuple(source[wrong[0]].shape)}, the policy's {tuple(shapes[wrong[0]])}" if wrong else None
        )
