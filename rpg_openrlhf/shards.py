"""This rank's shard of a model's trained weights under ZeRO, weight by weight, and files of such shards.

A file states the weight of each piece and the position in it. Any number of ranks, under any ZeRO stage, can therefore
read it.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import deepspeed
import torch
import torch.distributed as dist


class Place(NamedTuple):
    """Place of a piece: it begins at `start` in the flattened weight, and at `offset` in this rank's flat tensor."""

    name: str
    group: int  # index of this rank's flat tensor, in the optimizer's order
    offset: int
    start: int
    numel: int


class Piece(NamedTuple):
    """Values of a flattened weight from index `start` on."""

    start: int
    values: torch.Tensor


def places(engine: deepspeed.DeepSpeedEngine) -> list[Place]:
    """Places of weights in this rank's flat tensors under ZeRO 1, 2 or 3, without weights that have no part here."""
    optimizer = engine.optimizer
    held = []
    if engine.zero_optimization_stage() == 3:
        for group, weights in enumerate(optimizer.fp16_groups):
            offset = 0
            for weight in weights:
                part = weight.ds_tensor.ds_numel
                start = dist.get_rank(weight.ds_process_group) * part
                numel = min(part, weight.ds_numel - start)
                held.append(Place(optimizer.param_names[weight], group, offset, start, numel))
                offset += part
    else:
        for group, weights in enumerate(optimizer.round_robin_bit16_groups):
            size = int(optimizer.partition_size[group])
            first = dist.get_rank(optimizer.real_dp_process_group[group]) * size
            end = 0
            for weight in weights:
                begin, end = end, end + weight.numel()
                low, high = max(begin, first), min(end, first + size)
                held.append(Place(optimizer.param_names[weight], group, low - first, low - begin, high - low))
    return [place for place in held if place.numel > 0]


def fill(target: torch.Tensor, start: int, name: str, pieces: Iterable[Piece]) -> None:
    """Copy the overlapping parts of `pieces` into `target`, the piece of the same weight that begins at `start`.

    The pieces are disjoint. Raise ValueError if they do not cover `target`.
    """
    filled = 0
    for piece in pieces:
        low, high = max(start, piece.start), min(start + target.numel(), piece.start + piece.values.numel())
        if low < high:
            target[low - start : high - start].copy_(piece.values[low - piece.start : high - piece.start])
            filled += high - low
    if filled != target.numel():
        raise ValueError(f"{target.numel() - filled} values of {name} are missing")


def write(folder: str | Path, kind: str, pieces: Mapping[str, Piece]) -> None:
    """Write this rank's pieces to its own file in `folder`, which must exist."""
    file = Path(folder, f"{kind}_rank{dist.get_rank()}_of_{dist.get_world_size()}.pt")
    torch.save({name: (piece.start, piece.values.cpu()) for name, piece in pieces.items()}, file)


def files(folder: str | Path, kind: str) -> list[Path]:
    """Files that all ranks wrote with `write`."""
    return sorted(Path(folder).glob(f"{kind}_rank*_of_*.pt"))


def read(folder: str | Path, kind: str) -> dict[str, Sequence[Piece]]:
    """All ranks' pieces of each weight, memory-mapped from the files."""
    pieces: dict[str, list[Piece]] = {}
    for file in files(folder, kind):
        for name, (start, values) in torch.load(file, map_location="cpu", mmap=True, weights_only=True).items():
            pieces.setdefault(name, []).append(Piece(start, values))
    return pieces
