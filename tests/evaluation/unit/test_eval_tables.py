"""Best and second, ties, digits, and tables whose texts would break CSV, Markdown or LaTeX."""

import csv
import io
import re

import pytest

from evaluation.pages import folders, tables
from evaluation.pages.table import Table, markdown, tex, to_csv, to_latex, to_markdown, to_text
from tests.evaluation import fabricated
from tests.evaluation.fabricated import Made

LAST = ("aime24", "Last")


def table(*values, column=LAST, label="m", ranked=True):
    rows = [((f"{label}{i}",), {column: value}) for i, value in enumerate(values)]
    return Table("t", "caption", [column], rows, digits=4, ranked=ranked)


def marked(*values):
    return [row[0].mark for row in table(*values).cells()]


def test_best_and_second_are_marked():
    assert marked(0.1, 0.3, 0.2) == ["", "best", "second"]


def test_numbers_that_read_alike_are_tied():
    assert marked(0.30001, 0.30004, 0.2, 0.2, 0.1) == ["best", "best", "second", "second", ""]


def test_a_missing_value_is_never_marked_nor_counted():
    assert marked(None, 0.3, 0.2) == ["", "best", "second"]


@pytest.mark.parametrize("values", [(0.3,), (0.3, 0.3), (0.3, None)])
def test_without_a_rival_there_is_no_best(values):
    assert set(marked(*values)) == {""}


def test_a_table_that_is_not_ranked_has_no_marks():
    assert [row[0].mark for row in table(1.0, 2.0, ranked=False).cells()] == ["", ""]


@pytest.mark.parametrize(
    ("value", "column", "text"),
    [
        (0.35625, "score", "0.3563"),
        (None, "score", "–"),
        (float("nan"), "score", "–"),
        ({"value": None, "low": None, "high": None}, "score", "–"),
        (0.02, "difference", "+0.0200"),
        (-0.02, "difference", "-0.0200"),
        (1280, "samples", "1,280"),
    ],
)
def test_cells_read_as_in_the_paper(value, column, text):
    assert table(value, column=column).cells()[0][0].text == text


def test_csv_keeps_every_digit_and_both_intervals():
    score = {"value": 1 / 3, "low": 0.1, "high": 0.5, "run_low": 0.2, "run_high": 0.4}
    text = to_csv(Table("t", "c", [("aime24", "Mean@32")], [(("a,b\n\x00c",), {("aime24", "Mean@32"): score})]))
    head, row = csv.reader(io.StringIO(text))
    assert head == [
        "method",
        "AIME24 Mean@32",
        *(f"AIME24 Mean@32 {end}" for end in ("low", "high", "run_low", "run_high")),
    ]
    assert row == ["a,b \ufffdc", repr(1 / 3), "0.1", "0.5", "0.2", "0.4"]


@pytest.mark.parametrize("label", ["=HYPERLINK(1)", "+cmd", "@SUM(1)", "-x"])
def test_csv_labels_are_no_formulas(label):
    assert to_csv(table(0.5, label=label)).splitlines()[1].startswith("'")


def test_latex_has_the_papers_shape():
    text = to_latex(table(0.1, 0.3, 0.2))
    assert r"\multicolumn{1}{c}{AIME24}" in text
    assert r"\cmidrule(lr){2-2}" in text
    assert r"m1 & \textbf{0.3000} \\" in text
    assert r"m2 & \underline{0.2000} \\" in text


def test_latex_prints_hostile_labels_as_they_are():
    for hostile in fabricated.HOSTILE[:6]:
        text = tex(hostile)
        assert not re.search(r"(?<!\\)[&%$#_]", text)
        assert "\\input" not in text
        assert "\n" not in text
        assert "\x00" not in text
    assert tex("\\a{b}_^~") == r"\textbackslash{}a\{b\}\_\textasciicircum{}\textasciitilde{}"


def test_markdown_labels_stay_in_their_cell():
    text = to_markdown(table(0.1, 0.3, label="a|b\n<img src=x>`"))
    rows = [line for line in text.splitlines() if line.startswith("| a")]
    assert len(rows) == 2
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 3 for row in rows)
    assert "<img" not in text
    assert markdown("[a](javascript:b)") == r"\[a\]\(javascript:b\)"


def test_markdown_notes_are_text():
    text = to_markdown(Table("t", "c", ["p"], [(("m",), {"p": 0.5})], notes=["<img src=x> [a](javascript:b)"]))
    assert text.endswith("\n&lt;img src=x&gt; \\[a\\]\\(javascript:b\\)\n")


def test_markdown_marks_best_and_second():
    text = to_markdown(table(0.1, 0.3, 0.2))
    assert "**0.3000**" in text
    assert "<u>0.2000</u>" in text


def test_text_is_aligned():
    lines = to_text(table(0.1, 0.3)).splitlines()
    assert len({len(line) for line in lines}) == 1


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    place = tmp_path_factory.mktemp("runs")
    small = {"aime24": Made(6, 0.5), "mine": Made(4, 0.5)}
    fabricated.write_run(place / "a", "A", small, n=8)
    fabricated.write_run(place / "b", "B", {"aime24": Made(6, 0.3)}, n=4)
    return folders.find([place])


def test_methods_take_the_largest_k_that_all_have(found):
    made = tables.methods(found.finals)
    assert made.parts()[:3] == [("AIME24", "Mean@n"), ("AIME24", "Pass@4"), ("AIME24", "Maj@n")]
    assert made.parts()[3:] == [("mine", "Mean@8"), ("mine", "Pass@8"), ("mine", "Maj@8")]
    assert [cell.text for cell in made.cells()[1][3:]] == ["–"] * 3


def test_scores_hold_what_results_hold(found):
    made = tables.scores(found.all_runs)
    assert [labels for labels, _ in made.rows] == [("AIME24", "A", "8"), ("AIME24", "B", "4"), ("mine", "A", "8")]
    of = found.runs[0].benchmarks["aime24"]
    values = made.rows[0][1]
    assert values["mean@n"] == of["mean"]
    assert values["pass@n"] == of["pass@k"]["8"]
    assert values["verl best@n"] == of["best@k"]["8"]
    assert values["samples"] == of["samples"] == 48
