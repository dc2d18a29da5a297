"""Sequences of different lengths in flat columns, without padding and without an object per sequence.

N: sequences; L: tokens of a sequence. An action column has L - 1 entries per sequence, one for each token but the
first. NumPy arrays are used because they are sliced and pickled at a tenth of the cost of tensors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np


def pad(flat: np.ndarray, lengths: Sequence[int], fill: Any = 0, dtype: Any = None) -> np.ndarray:
    """Pad to (N, longest): row i is the next lengths[i] entries of `flat`, then `fill`."""
    padded = np.full((len(lengths), max(lengths, default=0)), fill, dtype or flat.dtype)
    start = 0
    for row, length in zip(padded, lengths, strict=True):
        row[:length] = flat[start : start + length]
        start += length
    assert start == len(flat), f"{len(flat)} entries for {start}"
    return padded


def strip(padded: np.ndarray, lengths: Sequence[int]) -> np.ndarray:
    """Invert `pad`: concatenate the first lengths[i] entries of every row."""
    return np.concatenate([row[:length] for row, length in zip(padded, lengths, strict=True)])


def spans(begins: Sequence[int], ends: Sequence[int], width: int) -> np.ndarray:
    """(N, width), bool: true from begins[i] to ends[i] - 1."""
    places = np.arange(width)
    return (places >= np.asarray(begins)[:, None]) & (places < np.asarray(ends)[:, None])


class Row:
    """One sequence of columns."""

    __slots__ = ("columns", "place")

    def __init__(self, columns: Columns, place: int):
        self.columns, self.place = columns, place

    def value(self, name: str) -> Any:
        """Value `name` of the whole sequence."""
        return self.columns.values[name][self.place]


class Columns:
    """N sequences: token ids and action columns, concatenated, and a list of N entries for every other value."""

    __slots__ = ("_starts", "actions", "ids", "lengths", "values")

    def __init__(self, lengths: list[int], ids: np.ndarray, actions: dict[str, np.ndarray], values: dict[str, list]):
        self.lengths, self.ids, self.actions, self.values = lengths, ids, actions, values
        self._starts = [0, *np.cumsum(lengths).tolist()]
        tokens = self._starts[-1]
        assert len(ids) == tokens, f"{len(ids)} tokens for {tokens}"
        assert all(len(flat) == tokens - len(lengths) for flat in actions.values()), "not one entry per action"
        assert all(len(column) == len(lengths) for column in values.values()), "not one value per sequence"

    def __reduce__(self):
        return Columns, (self.lengths, self.ids, self.actions, self.values)

    def __len__(self) -> int:
        return len(self.lengths)

    def rows(self, kind: type[Row] = Row) -> Iterator[Row]:
        """All sequences, as objects of class `kind`."""
        return (kind(self, place) for place in range(len(self)))

    @property
    def action_lengths(self) -> list[int]:
        """Number of entries of each sequence in an action column."""
        return [length - 1 for length in self.lengths]

    def ids_of(self, place: int) -> np.ndarray:
        """Token ids of a sequence, (L,)."""
        return self.ids[self._starts[place] : self._starts[place + 1]]

    def actions_of(self, name: str, place: int) -> np.ndarray:
        """Action column `name` of a sequence, (L - 1,)."""
        return self.actions[name][self._starts[place] - place : self._starts[place + 1] - place - 1]

    @staticmethod
    def of(rows: Sequence[Row]) -> Columns:
        """Concatenate sequences, in this order, from any columns that have the same names."""
        places = [(row.columns, row.place) for row in rows]
        first = rows[0].columns
        return Columns(
            [columns.lengths[place] for columns, place in places],
            np.concatenate([columns.ids_of(place) for columns, place in places]),
            {name: np.concatenate([c.actions_of(name, place) for c, place in places]) for name in first.actions},
            {name: [columns.values[name][place] for columns, place in places] for name in first.values},
        )
