r"""A table as CSV (every digit and interval), Markdown, LaTeX in the paper's shape, or text for the terminal."""

import csv
import html
import io
import re
from itertools import groupby

from evaluation.pages.tables import Cell, Column, Table, marks, shown

_TEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}",
}  # fmt: skip
_INTERVALS = (("low", "high"), ("run_low", "run_high"))


def plain(text: str) -> str:
    """One line without control characters."""
    return " ".join("".join(c if c.isprintable() or c.isspace() else "\ufffd" for c in text).split())


def tex(text: str) -> str:
    """Text that LaTeX prints as it is."""
    return "".join(_TEX.get(character, character) for character in plain(text))


def markdown(text: str) -> str:
    """Text that Markdown shows as it is, also within a table, and that no renderer takes for HTML."""
    return html.escape(re.sub(r"([\\`*_{}\[\]()#!|~$])", r"\\\1", plain(text)), quote=False)


def interval(cell: Cell, column: Column) -> str:
    """`[0.21, 0.50]` over problems, or nothing."""
    if cell.value is None or cell.low is None or cell.high is None:
        return ""
    return f"[{shown(Cell(cell.low), column)}, {shown(Cell(cell.high), column)}]"


def to_csv(table: Table) -> str:
    """One header line; an interval takes two columns more; numbers with all their digits."""
    head, width = list(table.heads), []
    for index, column in enumerate(table.columns):
        name = " ".join(part for part in (column.group, column.name) if part)
        cells = [cells[index] for _, cells in table.rows]
        ends = [pair for pair in _INTERVALS if any(getattr(cell, pair[0]) is not None for cell in cells)]
        width.append([end for pair in ends for end in pair])
        head += [name, *(f"{name} {end}" for end in width[-1])]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(head)
    for labels, cells in table.rows:
        row: list[object] = [_csv_text(label) for label in labels]
        for cell, ends in zip(cells, width, strict=True):
            row += [cell.value, *(getattr(cell, end) for end in ends)]
        writer.writerow(["" if value is None else value for value in row])
    return out.getvalue()


def _csv_text(label: str) -> str:
    # A spreadsheet would run a label that begins like a formula.
    text = plain(label)
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) and not text[1:2].isdigit() else text


def to_markdown(table: Table) -> str:
    """Best bold, second underlined; intervals over problems behind the numbers."""
    titles = [markdown(" ".join(part for part in (c.group, c.name) if part)) for c in table.columns]
    lines = [f"| {' | '.join([*map(markdown, table.heads), *titles])} |"]
    lines.append(f"|{' --- |' * len(table.heads)}{' ---: |' * len(titles)}")
    for (labels, cells), marked in zip(table.rows, marks(table), strict=True):
        texts = []
        for cell, column, mark in zip(cells, table.columns, marked, strict=True):
            text = {"best": "**{}**", "second": "<u>{}</u>"}.get(mark, "{}").format(shown(cell, column))
            texts.append(f"{text} {interval(cell, column)}".strip())
        lines.append(f"| {' | '.join([*map(markdown, labels), *texts])} |")
    notes = [f"\n{note}" for note in table.notes]
    return "\n".join([markdown(table.caption), "", *lines, *notes]) + "\n"


def to_latex(table: Table) -> str:
    r"""A `table` environment with booktabs rules, a rule under each group, \textbf for best, \underline for second."""
    groups = [(name, len(list(same))) for name, same in groupby(column.group for column in table.columns)]
    spec = "l" * len(table.heads) + "c" * len(table.columns)
    lines = [
        "% needs \\usepackage{booktabs}",
        "\\begin{table}[t]",
        "\\centering",
        f"\\caption{{{tex(table.caption)}}}",
    ]
    lines += [f"\\begin{{tabular}}{{{spec}}}", "\\toprule"]
    if any(name for name, _ in groups):
        over = [f"\\multicolumn{{{span}}}{{c}}{{{tex(name)}}}" for name, span in groups]
        lines += [" & ".join([""] * len(table.heads) + over) + r" \\", " ".join(_rules(groups, len(table.heads)))]
    heads = [*table.heads, *(column.name for column in table.columns)]
    lines += [" & ".join(tex(head[:1].upper() + head[1:]) for head in heads) + r" \\", "\\midrule"]
    for (labels, cells), marked in zip(table.rows, marks(table), strict=True):
        texts = [_tex_cell(*found) for found in zip(cells, table.columns, marked, strict=True)]
        lines.append(" & ".join([*map(tex, labels), *texts]) + r" \\")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", *map(tex, table.notes), "\\end{table}"]) + "\n"


def _rules(groups: list[tuple[str, int]], at: int) -> list[str]:
    rules = []
    for _, span in groups:
        rules.append(f"\\cmidrule(lr){{{at + 1}-{at + span}}}")
        at += span
    return rules


def _tex_cell(cell: Cell, column: Column, mark: str) -> str:
    text = tex(shown(cell, column))
    text = {"best": f"\\textbf{{{text}}}", "second": f"\\underline{{{text}}}"}.get(mark, text)
    ends = interval(cell, column)
    return f"{text} {{\\scriptsize {ends}}}" if ends else text


def to_text(table: Table) -> str:
    """Aligned columns for the terminal."""
    groups = [" ".join(part for part in (column.group, column.name) if part) for column in table.columns]
    grid = [[*table.heads, *groups]]
    for labels, cells in table.rows:
        texts = [f"{shown(c, k)} {interval(c, k)}".strip() for c, k in zip(cells, table.columns, strict=True)]
        grid.append([*map(plain, labels), *texts])
    width = [max(len(row[index]) for row in grid) for index in range(len(grid[0]))]
    left = len(table.heads)
    return "\n".join(
        "  ".join(
            text.ljust(w) if i < left else text.rjust(w) for i, (text, w) in enumerate(zip(row, width, strict=True))
        )
        for row in grid
    )
