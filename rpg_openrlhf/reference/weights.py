"""π_ref's weights: this rank's part of them beside the policy's, in whose place they stand while π_ref is asked.

A part is what ZeRO gives this rank: the whole weights (0), its slice of the flat weights in use (1, 2), its slice of
each parameter (3). A refresh is then a copy within the rank. What is copied are the weights of the forward pass, bf16
as a rule, so that after it both policies' log-probs are equal to the bit.
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
    """Taken from the policy as it is when built. The average of `--train.enable_ema` is held the same way."""

    def __init__(self, engine: deepspeed.DeepSpeedEngine, *, offload: bool, mixed: bool, kind: str = "reference"):
        """offload: held in host memory; mixed: in fp32, as bf16 would lose a small mix; kind: of its files."""
        self.engine, self.offload, self.mixed, self.kind = engine, offload, mixed, kind
        self.held = [self._kept(shard, torch.float32 if mixed else shard.dtype) for shard in self._live()]

    @torch.no_grad()
    def refresh(self, mix: float = 1.0) -> None:
        """ref <- mix · policy + (1 - mix) · ref, by every rank for itself."""
        assert mix == 1 or self.mixed, "held in the policy's dtype, where a small mix would be lost"
        for held, live in zip(self.held, self._live(), strict=True):
            if mix == 1:
                held.copy_(live)
            else:
                held.lerp_(live.to(held.device).float(), mix)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the engine compute with the reference's weights inside, and with the policy's after it, come what may.

        A collective from ZeRO-1 on: every rank enters and leaves.
        """
        policy = [self._kept(shard, shard.dtype) for shard in self._live()]
        try:
            self._write(self.held)
            yield
        finally:
            self._write(policy)

    def take(self, path: str, trust_remote_code: bool) -> None:
        """Hold the Hugging Face model at `path` instead of the policy. ValueError where its weights do not fit."""
        policy = [self._kept(shard, shard.dtype) for shard in self._live()]
        try:
            self._read(path, trust_remote_code)
            self.refresh()
        finally:
            self._write(policy)

    def clear(self) -> None:
        """Hold zeros: of LoRA's adapters, the base model."""
        for held in self.held:
            held.zero_()

    def save(self, folder: str | Path) -> None:
        """This rank's part, as a file of its own in `folder`, which exists; without ZeRO one rank writes all."""
        if self.engine.zero_optimization_stage() or dist.get_rank() == 0:
            shards.write(folder, self.kind, self._pieces())

    def load(self, folder: str | Path) -> None:
        """Load the files of `save`, whatever number of ranks wrote them. ValueError if they are of another model."""
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
        """Views of what is held, by weight."""
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

    def _kept(self, shard: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """A copy of our own."""
        device = torch.device("cpu") if self.offload else shard.device
        pinned = device.type == "cpu" and shard.is_cuda
        return torch.empty(shard.shape, dtype=dtype, device=device, pin_memory=pinned).copy_(shard)

    def _live(self) -> list[torch.Tensor]:
        """This rank's part of the weights in use: views, new ones each time, as DeepSpeed may move them."""
        optimizer = self.engine.optimizer
        if self.engine.zero_optimization_stage() == 3:
            return [weight.ds_tensor.data for weight in self._trained()]
        if isinstance(optimizer, DeepSpeedZeroOptimizer):
            slices = zip(optimizer.parallel_partitioned_bit16_groups, optimizer.real_dp_process_group, strict=True)
            return [parts[dist.get_rank(group)].data for parts, group in slices]
        return [weight.data for weight in self._trained()]

    def _trained(self) -> list[torch.nn.Parameter]:
        """Frozen weights, such as those that LoRA's adapters stand beside, are policy's and reference's alike."""
        return [weight for weight in self.engine.module.parameters() if weight.requires_grad]

    @torch.no_grad()
    def _write(self, shards: list[torch.Tensor]) -> None:
        """Overwrite this rank's part, and bring the others' to where whole weights are kept."""
        optimizer, stage3 = self.engine.optimizer, self.engine.zero_optimization_stage() == 3
        if stage3:
            optimizer.empty_partition_cache()  # what is gathered, or being gathered, is of the old weights
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
        """The model at `path` into the engine, read by rank 0 alone."""
        module, stage3 = self.engine.module, self.engine.zero_optimization_stage() == 3
        source: dict[str, torch.Tensor] = {}
        problem: list[str | None] = [None]
        if dist.get_rank() == 0:
            try:
                model = type(module).from_pretrained(path, trust_remote_code=trust_remote_code)
                source = dict(model.named_parameters())
                problem = [self._misfit(source)]
            except Exception as error:  # every rank must hear of it, or the others wait for ever
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

    def _misfit(self, source: dict[str, torch.Tensor]) -> str | None:
        shapes = {name: getattr(w, "ds_shape", w.shape) for name, w in self.engine.module.named_parameters()}
        for name in sorted(shapes.keys() ^ source.keys()):
            return f"{name} is in {'the policy' if name in shapes else 'it'} alone"
        wrong = [name for name in shapes if shapes[name] != source[name].shape]
        return (
            f"{wrong[0]} is {tuple(source[wrong[0]].shape)}, the policy's {tuple(shapes[wrong[0]])}" if wrong else None
        )
