"""Plan of a weight sync: names, shapes and dtypes in, buckets out; made once per run.

A bucket is a range of bytes that holds whole layers if they fit. Both ends hold the same plan, so a call only names
the bucket.
"""

import itertools
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

import torch

ALIGNMENT = 64  # bytes: any dtype can be viewed at a multiple of it, and copies are vectorized
LAYER = re.compile(r".*?\.\d+\.")  # up to the first number: model.layers.3.


@dataclass(frozen=True)
class Piece:
    """Place of a tensor in its bucket."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    start: int

    @property
    def stop(self) -> int:
        """Offset after its last byte."""
        return self.start + math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class Bucket:
    pieces: tuple[Piece, ...]

    @property
    def nbytes(self) -> int:
        return _aligned(self.pieces[-1].stop)

    def views(self, buffer: torch.Tensor) -> list[torch.Tensor]:
        """Views of its tensors in `buffer` (uint8), in order."""
        return [buffer[p.start : p.stop].view(p.dtype).view(p.shape) for p in self.pieces]


def _aligned(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


def make_plan(tensors: Iterable[tuple[str, Iterable[int], torch.dtype]], cap: int) -> tuple[Bucket, ...]:
    """Distribute tensors, (name, shape, dtype) each, in their order to buckets of at most `cap` bytes.

    A bucket ends between layers, or within a layer that is larger than the cap. A tensor larger than the cap has its
    own bucket.
    """
    buckets: list[Bucket] = []
    pieces: list[Piece] = []

    def end() -> int:
        return _aligned(pieces[-1].stop) if pieces else 0

    def cut_before(nbytes: int) -> None:
        if pieces and end() + nbytes > cap:
            buckets.append(Bucket(tuple(pieces)))
            pieces.clear()

    for _, layer in itertools.groupby(tensors, key=lambda tensor: _layer(tensor[0])):
        group = [Piece(name, tuple(shape), dtype, 0) for name, shape, dtype in layer]
        cut_before(sum(_aligned(piece.stop) for piece in group))
        for piece in group:
            cut_before(_aligned(piece.stop))
            pieces.append(Piece(piece.name, piece.shape, piece.dtype, end()))
    if pieces:
        buckets.append(Bucket(tuple(pieces)))
    return tuple(buckets)


def _layer(name: str) -> str:
    """Name of the group that stays together: a numbered layer, or a tensor outside of all layers."""
    match = LAYER.match(name)
    return match[0] if match else name


def checksum(buffer: torch.Tensor) -> int:
    """Sum of a bucket's 64-bit words, at the speed of reading. It detects stale or partial data, not an attack."""
    return int(buffer.view(torch.int64).sum())
