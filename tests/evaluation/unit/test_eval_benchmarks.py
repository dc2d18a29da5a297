"""Loading benchmarks: what is read, and the one line that says what is wrong."""

import hashlib
import json
import os
import sys
import types
from pathlib import Path

import pytest

from evaluation.grading.strict import strict_verdict
from evaluation.problems.benchmarks import BenchmarkError, known
from evaluation.problems.golds import judge
from evaluation.problems.loading import load

DATA = Path(os.environ.get("RPG_BENCHMARK_DATA", Path(__file__).resolve().parents[4] / "shared" / "data"))
needs_data = pytest.mark.skipif(not (DATA / "benchmarks").is_dir(), reason="needs the benchmark files")


def write(path, *rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def error_of(call, *args, **kwargs):
    with pytest.raises(BenchmarkError) as caught:
        call(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_shipped_rows():
    rows = known()
    assert {name: row.rows for name, row in rows.items()} == {
        "aime24": 30, "aime25": 30, "amc23": 40, "minerva_math": 272, "olympiadbench": 675, "math500": 500,
    }  # fmt: skip
    assert rows["olympiadbench"].hub_rows == 674
    assert all(len(row.revision or "") == 40 for row in rows.values())


@needs_data
@pytest.mark.parametrize("name", ["aime24", "aime25", "amc23", "minerva_math", "olympiadbench", "math500"])
def test_every_gold_is_right(name):
    """A benchmark's own answers must be graded right, in both forms, whichever of its golds is said."""
    loaded = load(name, DATA / "benchmarks")
    assert len(loaded.problems) == known()[name].rows == loaded.rows
    wrong = []
    for problem in loaded.problems:
        row = {"gold": problem.gold, "golds": problem.golds, "tolerance": problem.tolerance}
        for gold in problem.golds:
            wrong += [
                (problem.id, form) for form in ("Answer: %s", "\\boxed{%s}") if not judge(row, form % gold).is_correct
            ]
            wrong += [] if strict_verdict(f"Answer: {gold}", problem.golds)[0] else [(problem.id, "strict")]
    assert wrong == []


@needs_data
def test_the_odd_golds():
    of = {
        p.id: p
        for name in ("aime25", "minerva_math", "olympiadbench")
        for p in load(name, DATA / "benchmarks").problems
    }
    assert "336^\\circ" in {gold for problem in of.values() for gold in problem.golds}
    assert of["minerva-005"].golds[1] == "\\arcsin(\\frac{10}{13})"
    assert of["olympiadbench-2592"].tolerance == 0.1
    assert sum(problem.multiple for problem in of.values()) == 94


def test_a_users_file(tmp_path):
    path = write(
        tmp_path / "mine.jsonl", {"problem": "1+1?", "answer": 2}, "", {"id": "b", "problem": "x", "answer": "$y$"}
    )
    loaded = load(str(path))
    assert [(p.id, p.gold, p.benchmark) for p in loaded.problems] == [("1", "2", "mine"), ("b", "$y$", "mine")]
    assert loaded.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (loaded.source, loaded.revision, loaded.rows) == (str(path), None, 2)
    assert [p.id for p in load(str(path), limit=1).problems] == ["1"]
    assert load(str(path), limit=1).rows == 2


def test_a_users_row(tmp_path):
    write(tmp_path / "sums.jsonl", {"input": "2+3?", "label": 5.0}, {"input": "2+4?", "label": "06"})
    extra = tmp_path / "more.yaml"
    extra.write_text(
        "sums:\n  path: sums.jsonl\n  rows: 2\n  answer_type: integer\n  columns: {problem: input, answer: label}\n"
    )
    loaded = load("sums", None, extra)
    assert [(p.text, p.gold, p.golds) for p in loaded.problems] == [("2+3?", "5", ("5",)), ("2+4?", "6", ("6", "06"))]
    assert "aime24" in known(extra)


def test_answers_in_a_list_and_tolerances(tmp_path):
    row = {"problem": "?", "answer": ["1", "2"], "error": "1e-2"}
    problem = load(str(write(tmp_path / "m.jsonl", row))).problems[0]
    assert (problem.gold, problem.multiple, problem.tolerance) == ("1, 2", True, 0.01)


GOOD = {"problem": "p", "answer": "1"}


@pytest.mark.parametrize(
    ("lines", "place", "words"),
    [
        ([GOOD, "{"], 2, "not JSON"),
        ([GOOD, "[1]"], 2, "not a JSON object"),
        (
            [{"ask": "p", "label": 1}],
            1,
            "no text in 'problem', the columns are ask, label: name yours in a --benchmark-file",
        ),
        ([{"problem": "p", "label": 1}], 1, "no answer in 'answer', the columns are problem, label: name yours"),
        ([{"problem": "  ", "answer": "1"}], 1, "no text"),
        ([GOOD, {"problem": "p", "answer": ""}], 2, "no answer in 'answer'"),
        ([{"problem": "p", "answer": True}], 1, "no answer"),
        ([{"problem": "p", "answer": []}], 1, "no answer"),
        ([{"id": 7} | GOOD, {"id": "7"} | GOOD], 2, "id '7' is also that of"),
        ([GOOD | {"error": "some"}], 1, "tolerance"),
        (["[" * 100_000], 1, "not JSON"),
    ],
)
def test_a_bad_line_is_named(tmp_path, lines, place, words):
    path = write(tmp_path / "bad.jsonl", *lines)
    message = error_of(load, str(path))
    assert message.startswith(f"{path}:{place}")
    assert words in message


def test_bad_files(tmp_path):
    assert "no problems" in error_of(load, str(write(tmp_path / "empty.jsonl")))
    (tmp_path / "latin.jsonl").write_bytes('{"problem": "é", "answer": 1}'.encode("latin-1"))
    assert "latin.jsonl:1 is not UTF-8" in error_of(load, str(tmp_path / "latin.jsonl"))
    assert "--data-dir must hold" in error_of(load, "aime24", tmp_path)
    assert "did you mean 'aime24'" in error_of(load, "aime-24")
    assert "does not exist" in error_of(load, "nowhere.jsonl")


def test_row_counts_and_answer_types(tmp_path):
    rows = [{"problem": "p", "answer": str(number)} for number in range(29)]
    path = write(tmp_path / "aime24.jsonl", *rows)
    assert "must have 30 rows, this has 29" in error_of(load, "aime24", tmp_path)
    assert "must have 30 rows" in error_of(load, str(path))
    write(path, *rows, {"problem": "p", "answer": "1000"})
    assert f"{path}:30: the answer '1000' is not in 0 to 999" in error_of(load, "aime24", tmp_path)
    write(path, *rows, {"problem": "p", "answer": "1/2"})
    assert f"{path}:30: the answer '1/2' is not of the type integer" in error_of(load, "aime24", tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x: [1]", "must map names"), ("x: {hub: y}", "unknown key 'hub', did you mean 'hub_id'?"), ("{", "more.yaml"),
        ("x: {hub_id: a/b, answer_type: word}", "not one of integer, number, math"),
        ("x: {rows: 3}", "either hub_id or path"), ("x: {hub_id: a/b, rows: many}", "whole number"),
        ("x: {path: a, columns: {anser: b}}", "did you mean 'answer'?"),
        ("x: {path: a, columns: 3}", "columns must map"),
    ],
)  # fmt: skip
def test_a_bad_yaml_is_named(tmp_path, text, words):
    path = tmp_path / "more.yaml"
    path.write_text(text)
    message = error_of(known, path)
    assert str(path) in message
    assert words in message


def fake_hub(monkeypatch, rows, commit="c" * 40, fails=None):
    """The two packages as the loader uses them."""
    asked = {}

    class HfApi:
        def dataset_info(self, hub_id, revision):
            if commit is None:
                raise ConnectionError("offline")
            return types.SimpleNamespace(sha=commit)

    def load_dataset(hub_id, config, *, split, revision):
        asked.update(hub_id=hub_id, config=config, split=split, revision=revision)
        if fails:
            raise fails
        return rows

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(HfApi=HfApi))
    return asked


def test_the_hub(monkeypatch):
    rows = [{"id": number, "question": "q", "answer": "27.0", "url": ""} for number in range(40)]
    asked = fake_hub(monkeypatch, rows)
    loaded = load("amc23")
    assert loaded.revision == asked["revision"] == "c" * 40
    assert loaded.source == f"math-ai/amc23@{known()['amc23'].revision}"
    assert {p.gold for p in loaded.problems} == {"27"}
    assert [p.id for p in loaded.problems][:2] == ["0", "1"]
    assert loaded.sha256 == load("amc23").sha256


def test_the_hub_copy_of_olympiadbench_has_a_row_less(monkeypatch):
    row = {
        "question": "q",
        "final_answer": ["1", "2"],
        "is_multiple_answer": True,
        "error": None,
        "unit": None,
        "image_1": None,
    }
    fake_hub(monkeypatch, [{"id": number} | row for number in range(674)])
    loaded = load("olympiadbench")
    assert loaded.rows == 674
    assert loaded.problems[0].golds[0] == "1, 2"
    fake_hub(monkeypatch, [{"id": number} | row for number in range(675)])
    assert "must have 674 rows" in error_of(load, "olympiadbench")


def test_offline(monkeypatch):
    fake_hub(monkeypatch, [], commit=None, fails=ConnectionError("no route\nto host"))
    message = error_of(load, "aime24")
    assert "@2fe88a2f1091d5048c0f36abc874fb997b3dd99a cannot be loaded (the hub cannot be reached" in message
    assert "--data-dir" in message


class RepositoryNotFoundError(OSError):
    """Named as the hub's."""


@pytest.mark.parametrize(
    ("error", "clause"),
    [
        (RepositoryNotFoundError("404 Client Error. (Request ID: 1)\n\nRepository Not Found"), "no such repository"),
        (ValueError("Unknown split \"test\". Should be one of ['train']."), 'ValueError: Unknown split "test")'),
        (ValueError("word " * 100), "word word ...)"),
    ],
)
def test_an_error_of_the_hub_is_one_clause(monkeypatch, error, clause):
    fake_hub(monkeypatch, [], fails=error)
    message = error_of(load, "aime24")
    assert clause in message
    assert len(message) < 350
