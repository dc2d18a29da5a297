"""This rank's part of a model's trained weights under ZeRO, weight by weight, and files of such parts.

A file says of each piece which weight it is of and where in it, so that any number of ranks, under any ZeRO stage, can
read what another number wrote under another stage.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import deepspeed
import torch
import torch.distributed as dist


class Place(NamedTuple):
    """Place of a piece of a weight: numbers from `start` on in the flattened weight, from `offset` on here."""

    name: str
    group: int  # of this rank's flat tensors, in the optimizer's order
    offset: int
    start: int
    numel: int


class Piece(NamedTuple):
    """A piece of a flattened weight, from `start` on."""

    start: int
    values: torch.Tensor


def places(engine: deepspeed.DeepSpeedEngine) -> list[Place]:
    """This rank's places in the optimizer's flat tensors of ZeRO 1, 2 or 3; of a weight it has no part of, none."""
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
    """Copy what overlaps of `pieces`, which are disjoint, into the piece `target` of the same weight.

    ValueError where they do not cover it.
    """
    filled = 0
    for piece in pieces:
        low, high = max(start, piece.start), min(start + target.numel(), piece.start + piece.values.numel())
        if low < high:
            target[low - start : high - start].copy_(piece.values[low - piece.start : high - piece.start])
            filled += high - low
    if filled != target.numel():
        raise ValueError(f"{target.numel() - filled} numbers of {name} are missing")


def write(folder: str | Path, kind: str, pieces: Mapping[str, Piece]) -> None:
    """This rank's pieces as a file of its own in `folder`, which exists."""
    file = Path(folder, f"{kind}_rank{dist.get_rank()}_of_{dist.get_world_size()}.pt")
    torch.save({name: (piece.start, piece.values.cpu()) for name, piece in pieces.items()}, file)


def files(folder: str | Path, kind: str) -> list[Path]:
    """Every rank's file of `write`."""
    return sorted(Path(folder).glob(f"{kind}_rank*_of_*.pt"))


def read(folder: str | Path, kind: str) -> dict[str, Sequence[Piece]]:
    """Every rank's pieces of each weight, mapped from the files rather than read."""
    pieces: dict[str, list[Piece]] = {}
    for file in files(folder, kind):
        for name, (start, values) in torch.load(file, map_location="cpu", mmap=True, weights_only=True).items():
            pieces.setdefault(name, []).append(Piece(start, values))
    return pieces
