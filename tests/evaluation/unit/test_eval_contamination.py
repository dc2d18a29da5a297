"""Which problems a training file repeats: made ones, and the known case."""

import json
import os
from pathlib import Path

import pytest

from evaluation.problems.contamination import report
from evaluation.problems.loading import load
from rpg_openrlhf.errors import Refusal
from rpg_openrlhf.problems.prompt import render_prompt

DATA = Path(os.environ.get("RPG_BENCHMARK_DATA", Path(__file__).resolve().parents[4] / "shared" / "data"))
needs_data = pytest.mark.skipif(not (DATA / "train").is_dir(), reason="needs the training files")

TEXT = (
    "A train leaves the station at noon and travels $\\dfrac{3}{4}$ of the way to town at 60 miles per hour. "
    "How long does it take?"
)
PROBLEM = {"benchmark": "b", "problem": "p", "text": TEXT, "gold": "7", "golds": ["7"]}


def find(problem, path):
    """Repeats of one benchmark's problem."""
    return report([problem], path)["benchmarks"][problem["benchmark"]]


def training(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ({"problem": TEXT}, "exact"),
        ({"problem": TEXT.upper().replace(" ", "  ").replace("$", "")}, "exact"),
        ({"prompt": render_prompt(TEXT), "label": "7"}, "exact"),
        ({"prompt": [{"role": "system", "content": "Be good."}, {"role": "user", "content": TEXT}]}, "exact"),
        ({"input": TEXT.replace("A train", "A red train")}, "near"),
        ({"problem": TEXT + " The answer is in the form $\\frac{m}{n}$. Please find m + n."}, "near"),
        (
            {"problem": "Now a train leaves the station at noon and travels on for 3 hours, so how far?", "answer": 7},
            None,
        ),
        ({"problem": "Compute the sum of the first hundred odd integers and nothing else at all."}, None),
        ({"problem": "A"}, None),
    ],
)
def test_kinds(tmp_path, row, kind):
    found = find(PROBLEM, training(tmp_path / "t.jsonl", row))
    assert found == ({"p": {"kind": kind, "rows": [1]}} if kind else {})


def test_an_agreeing_answer_is_enough_for_half_the_words(tmp_path):
    text = (
        "Every day a train leaves the station at noon and travels to a far away town at 60 miles per hour. How long?"
    )
    assert find(PROBLEM, training(tmp_path / "t.jsonl", {"problem": text, "answer": "8"})) == {}
    assert "p" in find(PROBLEM, training(tmp_path / "t.jsonl", {"problem": text, "answer": "$7$"}))


def test_the_report(tmp_path):
    path = training(
        tmp_path / "t.jsonl",
        {"id": "x", "problem": "Other"},
        {"id": "y", "problem": TEXT},
        {"id": "z", "problem": TEXT + "?"},
    )
    content = report([PROBLEM, PROBLEM | {"benchmark": "c", "text": "Unseen"}], path)
    assert content["training_file"] == "t.jsonl"
    assert (content["rows"], len(content["sha256"])) == (3, 64)
    assert content["benchmarks"] == {"b": {"p": {"kind": "exact", "rows": ["y", "z"]}}, "c": {}}


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("{\n", ":1 is not JSON"),
        ('{"text": "x"}\n', ":1 has none of problem"),
        ("[]\n", ":1 is not a JSON object"),
        ("", "no rows"),
    ],
)
def test_bad_training_files(tmp_path, lines, words):
    path = tmp_path / "t.jsonl"
    path.write_text(lines)
    with pytest.raises(Refusal, match="--train-data") as caught:
        report([PROBLEM], path)
    assert words in str(caught.value)
    with pytest.raises(Refusal, match="No such file"):
        report([PROBLEM], tmp_path / "none.jsonl")


def rows_of(*names):
    return [
        {"benchmark": p.benchmark, "problem": p.id, "text": p.text, "gold": p.gold, "golds": list(p.golds)}
        for name in names
        for p in load(name, DATA / "benchmarks").problems
    ]


@needs_data
def test_the_known_case():
    """DAPO-Math-17k repeats 28 of AMC23, none of AIME; of the hand-made list everything is found."""
    rows = rows_of("aime24", "aime25", "amc23", "minerva_math", "math500", "olympiadbench")
    found = report(rows, DATA / "train" / "dapo_math_17k_en.jsonl")
    sizes = {name: len(of) for name, of in found["benchmarks"].items()}
    assert found["rows"] == 13_513
    assert [sizes[name] for name in ("aime24", "aime25", "amc23", "minerva_math")] == [0, 0, 28, 0]
    listed = json.loads((DATA / "benchmarks" / "contamination.json").read_text())["train"]["dapo_math_17k_en.jsonl"]
    mine = {problem for of in found["benchmarks"].values() for problem in of}
    assert set(listed) <= mine
    assert len(mine) <= 1.25 * len(listed)
