r"""Matrices: \begin{pmatrix} .. \end{pmatrix}, with a scalar in front."""

from collections.abc import Callable

from rpg_openrlhf.rewards.expressions import evaluate
from rpg_openrlhf.rewards.numbers import Number, TooBig
from rpg_openrlhf.rewards.token_text import split_top
from rpg_openrlhf.rewards.values import Leaf, Row, Tokens, Value

MAX_CELLS = 200
_MATRICES = frozenset(("pmatrix", "bmatrix", "Bmatrix", "matrix", "smallmatrix", "array", "psmallmatrix"))


def matrix_of(tokens: Tokens, value: Callable[[Tokens], Value]) -> Row | None:
    r"""The matrix, or None if the tokens are not one; vmatrix is a determinant, hence a number."""
    starts = [index for index, token in enumerate(tokens) if token.kind == "begin"]
    if len(starts) != 1 or tokens[starts[0]].text not in _MATRICES or tokens[-1].kind != "end":
        return None
    start = starts[0]
    if tokens[-1].text != tokens[start].text:
        return None
    rows = [row for row in split_top(tokens[start + 1 : -1], r"\\") if row]
    cells = [[value(cell) for cell in split_top(row, "&")] for row in rows]
    if sum(map(len, cells)) > MAX_CELLS:
        raise TooBig("cells")
    if start:
        factor = tokens[:start]
        factor = factor[:-1] if factor[-1].text in (r"\cdot", r"\times") else factor
        return _scaled(evaluate(factor), cells)
    return Row("matrix", tuple(Row("row", tuple(row)) for row in cells))


def _scaled(factor: Number, cells: list[list[Value]]) -> Row | None:
    rows = []
    for row in cells:
        numbers = [cell.number for cell in row if isinstance(cell, Leaf) and cell.number is not None]
        if len(numbers) < len(row):
            return None
        rows.append(Row("row", tuple(Leaf((), computed=factor * number) for number in numbers)))
    return Row("matrix", tuple(rows))
