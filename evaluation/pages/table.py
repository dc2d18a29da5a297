r"""Table of scores, and its text as CSV (all digits and intervals), Markdown, LaTeX in the paper's form, or plain."""

import csv
import html
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from evaluation.store import write_text

TITLES = {
    "aime24": "AIME24", "aime25": "AIME25", "amc23": "AMC23", "math500": "MATH-500", "minerva_math": "Minerva-Math",
    "olympiadbench": "OlympiadBench",
}  # fmt: skip
COUNTS = ("problems", "samples", "planned", "at step", "at step ", "evaluations", "won", "tied", "lost", "seeds")
# Number formats by column name; the other columns have the table's number of digits.
FORMS = {
    **dict.fromkeys(COUNTS, ",.0f"),
    **dict.fromkeys(("mean tokens", "median tokens"), ",.1f"),
    **dict.fromkeys(("first", "second"), ",.3f"),
    **dict.fromkeys(("p", "Holm's p"), ",.4f"),
    **dict.fromkeys(("difference", "Best − corrected"), "+,.4f"),
}
ENDS = ("value", "low", "high", "run_low", "run_high")  # intervals over problems, then from run to run
TEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}",
}  # fmt: skip

Score = Mapping[str, Any] | float | None  # an entry of results.json with its intervals, or a bare number
Column = str | tuple[str, str]  # a name, or a benchmark and a name


class Cell(NamedTuple):
    """Text of a score and of its intervals over problems and runs; `mark` is `best`, `second` or ""."""

    text: str
    over: str
    runs: str
    mark: str


@dataclass(frozen=True)
class Table:
    """`rows` are (labels, scores by column), one label for each of `heads`. `name` becomes the file's name."""

    name: str
    caption: str
    columns: Sequence[Column]
    rows: Sequence[tuple[tuple[str, ...], Mapping[Column, Score]]]
    heads: tuple[str, ...] = ("method",)
    digits: int = 3
    ranked: bool = False  # mark the highest and the second of each column
    notes: Sequence[str] = ()

    def parts(self) -> list[tuple[str, str]]:
        """(group, name) of each column as shown; the group is a benchmark's title or empty."""
        pairs = [("", column) if isinstance(column, str) else column for column in self.columns]
        return [(title_of(group), name) for group, name in pairs]

    def titles(self) -> list[str]:
        """Group and name of each column in one text."""
        return [" ".join(part for part in pair if part) for pair in self.parts()]

    def groups(self) -> list[tuple[str, int]]:
        """Groups and the number of columns under each; empty if no column has one."""
        spans = [(name, len(list(same))) for name, same in groupby(group for group, _ in self.parts())]
        return spans if any(name for name, _ in spans) else []

    def cells(self) -> list[list[Cell]]:
        """Cells of each row."""
        columns = [self._cells(column, name) for column, (_, name) in zip(self.columns, self.parts(), strict=True)]
        return [[column[place] for column in columns] for place in range(len(self.rows))]

    def _cells(self, column: Column, name: str) -> list[Cell]:
        form = FORMS.get(name, f",.{self.digits}f")
        scores = [_score(row[column]) for _, row in self.rows]
        texts = [_number(score.get("value"), form) for score in scores]
        marks = _marks(texts) if self.ranked else [""] * len(texts)
        return [
            Cell(text, _interval(score, form, *ENDS[1:3]), _interval(score, form, *ENDS[3:]), mark)
            for text, score, mark in zip(texts, scores, marks, strict=True)
        ]


def title_of(benchmark: str) -> str:
    """A benchmark's name as the paper writes it."""
    return TITLES.get(benchmark, benchmark)


def _score(value: Score) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {"value": value}


def _number(value: float | None, form: str) -> str:
    return "–" if value is None or value != value else format(value, form)


def _interval(score: Mapping[str, Any], form: str, low: str, high: str) -> str:
    """Text such as `[0.21, 0.50]`; "" without an interval."""
    ends = [score.get(key) for key in ("value", low, high)]
    return "" if None in ends else f"[{_number(ends[1], form)}, {_number(ends[2], form)}]"


def _marks(texts: Sequence[str]) -> list[str]:
    """Mark of each text: `best`, `second` or "". Equal texts are tied, and all of them are marked."""
    values = [None if text == "–" else float(text.replace(",", "")) for text in texts]
    ranks = sorted({value for value in values if value is not None}, reverse=True)
    # No marks for a single row or if all rows are tied.
    named = dict(zip(ranks, ("best", "second"), strict=False)) if len(ranks) > 1 else {}
    return ["" if value is None else named.get(value, "") for value in values]


def plain(text: str) -> str:
    """One line without control characters."""
    return " ".join("".join(c if c.isprintable() or c.isspace() else "\ufffd" for c in text).split())


def tex(text: str) -> str:
    """Text escaped for LaTeX."""
    return "".join(TEX.get(character, character) for character in plain(text))


def markdown(text: str) -> str:
    """Text escaped for Markdown, also within a table, and for HTML."""
    return html.escape(re.sub(r"([\\`*_{}\[\]()#!|~$])", r"\\\1", plain(text)), quote=False)


def to_csv(table: Table) -> str:
    """CSV with one header line, all digits, and two more columns for each interval."""
    columns = [[head, *(_csv_text(labels[i]) for labels, _ in table.rows)] for i, head in enumerate(table.heads)]
    for column, title in zip(table.columns, table.titles(), strict=True):
        scores = [_score(row[column]) for _, row in table.rows]
        columns.append([title, *(score.get("value") for score in scores)])
        for end in ENDS[1:]:
            values = [score.get(end) for score in scores]
            if any(value is not None for value in values):
                columns.append([f"{title} {end}", *values])
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(zip(*columns, strict=True))
    return out.getvalue()


def _csv_text(label: str) -> str:
    # A spreadsheet would run a label that begins like a formula.
    text = plain(label)
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) and not text[1:2].isdigit() else text


def _texts(table: Table, escape: Callable[[str], str], best: str, second: str, interval: str) -> Iterator[list[str]]:
    """Labels and cells of each row as texts; `best`, `second` and `interval` are %-formats around a text."""
    around = {"best": best, "second": second, "": "%s"}
    for (labels, _), cells in zip(table.rows, table.cells(), strict=True):
        texts = [around[cell.mark] % escape(cell.text) + (interval % cell.over if cell.over else "") for cell in cells]
        yield [*map(escape, labels), *texts]


def to_markdown(table: Table) -> str:
    """Markdown: best bold, second underlined, intervals over problems after the numbers."""
    heads = [markdown(head) for head in (*table.heads, *table.titles())]
    rule = f"|{' --- |' * len(table.heads)}{' ---: |' * len(table.columns)}"
    rows = [f"| {' | '.join(row)} |" for row in (heads, *_texts(table, markdown, "**%s**", "<u>%s</u>", " %s"))]
    notes = [f"\n{markdown(note)}" for note in table.notes]
    return "\n".join([markdown(table.caption), "", rows[0], rule, *rows[1:], *notes]) + "\n"


def to_latex(table: Table) -> str:
    r"""A `table` environment with booktabs rules, a rule under each group, \textbf for best, \underline for second."""
    spec = "l" * len(table.heads) + "c" * len(table.columns)
    lines = ["% needs \\usepackage{booktabs}", "\\begin{table}[t]", "\\centering"]
    lines += [f"\\caption{{{tex(table.caption)}}}", f"\\begin{{tabular}}{{{spec}}}", "\\toprule"]
    if table.groups():
        over, rules, at = [""] * len(table.heads), [], len(table.heads)
        for name, span in table.groups():
            over.append(f"\\multicolumn{{{span}}}{{c}}{{{tex(name)}}}")
            rules.append(f"\\cmidrule(lr){{{at + 1}-{at + span}}}")
            at += span
        lines += [" & ".join(over) + r" \\", " ".join(rules)]
    heads = [tex(head[:1].upper() + head[1:]) for head in (*table.heads, *(name for _, name in table.parts()))]
    body = [
        " & ".join(row) + r" \\" for row in _texts(table, tex, r"\textbf{%s}", r"\underline{%s}", r" {\scriptsize %s}")
    ]
    lines += [" & ".join(heads) + r" \\", "\\midrule", *body, "\\bottomrule", "\\end{tabular}"]
    return "\n".join([*lines, *map(tex, table.notes), "\\end{table}"]) + "\n"


def to_text(table: Table) -> str:
    """Aligned columns for the terminal."""
    grid = [[*table.heads, *table.titles()], *_texts(table, plain, "%s", "%s", " %s")]
    widths = [max(map(len, column)) for column in zip(*grid, strict=True)]
    signs = "<" * len(table.heads) + ">" * len(table.columns)
    return "\n".join(
        "  ".join(f"{text:{sign}{width}}" for text, sign, width in zip(row, signs, widths, strict=True))
        for row in grid
    )


FORMATS = {"csv": to_csv, "md": to_markdown, "tex": to_latex}


def write(tables: Sequence[Table], folder: Path) -> list[Path]:
    """Write each table in every format and return the paths. Lone surrogates, which UTF-8 lacks, are replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for table in tables:
        for suffix, form in FORMATS.items():
            paths.append(folder / f"{table.name}.{suffix}")
            write_text(paths[-1], form(table).encode("utf-8", "replace").decode("utf-8"))
    return paths
