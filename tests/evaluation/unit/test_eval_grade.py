"""Grading a run folder: what is written, what a rerun keeps, and what a changed grader flips."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from evaluation.commands.grade import main
from evaluation.grading import graded_file, graded_row
from evaluation.grading.graded_file import GradedFile, GradeError
from evaluation.grading.graded_folder import SampleGrader, grade_folder
from tests.evaluation.graded_case import read_lines, sample_row, samples, write_lines, write_run

ROOT = Path(__file__).resolve().parents[3]


EXPECTED = {"correct": 4, "wrong": 1, "no_answer": 1, "ambiguous": 1, "truncated": 1}


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    folder = write_run(tmp_path_factory.mktemp("run"))
    changes = grade_folder(folder)
    return folder, changes


@pytest.fixture
def run(graded, tmp_path):
    """A graded folder that a test may change."""
    for path in graded[0].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def test_a_fresh_folder(graded):
    folder, changes = graded
    assert changes.reasons == EXPECTED
    assert (changes.graded, changes.regraded, changes.flips) == (8, 0, ())
    rows = read_lines(folder / "graded.jsonl")
    assert [(row["problem"], row["sample"]) for row in rows] == [(p, k) for p in ("one", "two") for k in range(4)]
    assert {row["grader"] for row in rows} == {changes.grader}
    one = json.loads((folder / "votes.json").read_text())["benchmarks"]["small"]["one"]
    assert (one["n"], one["correct"], one["strict"], one["no_answer"], one["majority"]) == (4, 2, 1, 1, 1.0)
    assert not (folder / "grade_changes.json").exists()


def test_nothing_to_do(run):
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    changes = grade_folder(run)
    assert (changes.graded, changes.regraded, changes.reasons) == (0, 0, EXPECTED)
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


def test_a_half_written_line_and_a_missing_one(run):
    whole = (run / "graded.jsonl").read_bytes()
    votes = (run / "votes.json").read_bytes()
    lines = whole.splitlines(keepends=True)
    (run / "graded.jsonl").write_bytes(b"".join(lines[4:6] + lines[:2]) + lines[2][:30])
    changes = grade_folder(run)
    assert (changes.graded, changes.regraded) == (4, 0)
    assert (run / "graded.jsonl").read_bytes() == whole
    assert (run / "votes.json").read_bytes() == votes


def test_a_half_written_sample_is_not_there_yet(run):
    path = run / "samples.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    assert sum(grade_folder(run).reasons.values()) == 7


def test_samples_beyond_n_and_of_other_problems_are_left_out(run):
    more = [sample_row("one", 4, "Answer: 42"), sample_row("gone", 0, "Answer: 42"), sample_row("one", 0, "Answer: 7")]
    write_lines(run / "samples.jsonl", samples() + more)
    assert grade_folder(run).reasons == EXPECTED
    assert len(read_lines(run / "graded.jsonl")) == 8


def test_another_text_in_a_samples_place_is_graded_anew(run):
    rows = samples()
    rows[0] |= {"text": "Answer: 40", "tokens": 99}
    write_lines(run / "samples.jsonl", rows)
    changes = grade_folder(run)
    assert changes.regraded == 1
    assert (changes.flips[0].before, changes.flips[0].after) == ("correct, strict", "wrong")


def test_another_grader(run, capsys, monkeypatch):
    """Verdicts of an old version are made again, and what flipped is told and kept."""
    rows = [row | {"grader": "old"} for row in read_lines(run / "graded.jsonl")]
    rows[1] |= {"reason": "wrong", "correct": False}
    rows[2] |= {"strict": True}
    write_lines(run / "graded.jsonl", rows)
    monkeypatch.setitem(sys.modules, "evaluation.scores.results", type(sys)("evaluation.scores.results"))
    sys.modules["evaluation.scores.results"].write_results = lambda folder: None
    assert main([str(run)]) == 0
    out = capsys.readouterr().out
    assert "0 new, 8 made again" in out
    assert "2 verdicts changed (before: old)" in out
    assert "small/one/1" in out
    assert "wrong -> correct   '42'" in out
    kept = json.loads((run / "grade_changes.json").read_text())
    assert kept["counts"] == {"wrong -> correct": 1, "wrong, strict -> wrong": 1}
    assert [flip["sample"] for flip in kept["flips"]] == [1, 2]
    assert grade_folder(run).regraded == 0
    assert grade_folder(run, regrade=True).regraded == 8


def test_the_version_names_the_sources(graded):
    version = graded[1].grader
    assert version == graded_row.grader_version()
    assert version.startswith("0.1.0+")
    assert len(version.partition("+")[2]) == 12


def test_surrogates_and_control_characters(tmp_path):
    folder = write_run(tmp_path, [sample_row("one", 0, "\ud800\x00\u2028\nAnswer: \ud800\u20287")])
    grade_folder(folder)
    rows = [row | {"grader": "old", "reason": "correct"} for row in read_lines(folder / "graded.jsonl")]
    write_lines(folder / "graded.jsonl", rows)
    assert len(grade_folder(folder).flips) == 1
    assert "\ud800" in json.loads((folder / "grade_changes.json").read_text())["flips"][0]["extracted"]


def test_grading_while_sampling(tmp_path, graded):
    folder = write_run(tmp_path, samples()[:0])
    grader = SampleGrader(folder)
    with pytest.raises(GradeError, match="another process is grading"):
        grade_folder(folder)
    for row in samples():
        grader.put(row)
    assert len(read_lines(folder / "graded.jsonl")) == 8, "each verdict is on disk at once"
    for row in samples():
        grader.put(row)
    grader.close()
    grader.close()
    assert len(read_lines(folder / "graded.jsonl")) == 8, "a verdict that is there is not made again"
    write_lines(folder / "samples.jsonl", samples())
    assert grade_folder(folder).graded == 0
    assert (folder / "graded.jsonl").read_bytes() == (graded[0] / "graded.jsonl").read_bytes()
    assert json.loads((folder / "votes.json").read_text()) == json.loads((graded[0] / "votes.json").read_text())


def test_a_hostile_text_costs_its_own_sample(tmp_path):
    """The grader bounds its own work: no process has to be killed."""
    hostile = ["Answer: 9^{9^{9^9}}", "\\boxed{" + "1/" * 100_000 + "1}", "Answer: " + "(" * 3000 + "1" + ")" * 3000]
    folder = write_run(tmp_path, [sample_row("one", number, text) for number, text in enumerate(hostile)])
    assert "correct" not in grade_folder(folder).reasons


def test_one_writer(tmp_path):
    file = GradedFile(write_run(tmp_path))
    with pytest.raises(GradeError, match="another process"):
        GradedFile(tmp_path)
    file.close()
    GradedFile(tmp_path).close()


def damage(folder, name, line):
    path = folder / name
    path.write_bytes(line.encode() + b"\n" + path.read_bytes())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda run: (run / "settings.json").unlink(), "no settings.json"),
        (lambda run: (run / "settings.json").write_text("{"), "is not the settings of a run"),
        (
            lambda run: (run / "settings.json").write_text('{"n": 1, "benchmarks": {}, "prompt": 3}'),
            "is not the settings",
        ),
        (lambda run: (run / "problems.jsonl").unlink(), "problems.jsonl is missing"),
        (lambda run: damage(run, "samples.jsonl", "{"), "samples.jsonl:1 is damaged: delete that line"),
        (lambda run: damage(run, "samples.jsonl", '{"benchmark": 1}'), "samples.jsonl:1 is damaged"),
        (lambda run: damage(run, "problems.jsonl", "[]"), "problems.jsonl:1 is damaged"),
        (lambda run: damage(run, "graded.jsonl", '{"benchmark": "small"}'), "graded.jsonl:1 is damaged"),
    ],
)
def test_bad_folders(run, change, words, capsys):
    change(run)
    assert main([str(run)]) == 2
    message = capsys.readouterr().err
    assert message.startswith("evaluation.grade: error: ")
    assert words in message
    assert message.count("\n") == 1


def test_bad_flags(tmp_path, capsys):
    assert main([str(tmp_path / "none")]) == 2
    assert "is not a folder" in capsys.readouterr().err
    assert main([str(tmp_path)]) == 2
    assert "and the folders in it have no settings.json" in capsys.readouterr().err
    with pytest.raises(SystemExit) as end:
        main([str(tmp_path), "--workers", "2"])
    assert end.value.code == 2


def test_a_series_is_graded_folder_by_folder(tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr("evaluation.commands.grade._grade_shown", lambda folder, *_: done.append(folder.name))
    for step in (20, 10):
        write_run(tmp_path / f"step_{step:06d}")
    assert main([str(tmp_path)]) == 0
    assert done == ["step_000010", "step_000020"]


def test_the_command(tmp_path):
    write_run(tmp_path)
    command = [sys.executable, "-m", "evaluation.grade", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert "8 verdicts, 8 new" in done.stdout, done.stderr
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "votes.json").exists()


def test_grading_loads_nothing_heavy():
    code = "import sys, evaluation.commands.grade; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"torch", "transformers", "vllm", "ray", "openrlhf", "deepspeed"} & set(done.stdout.split())


def test_reasons_of_unknown_graders_are_made_anew(run):
    rows = read_lines(run / "graded.jsonl")
    rows[0] |= {"reason": "perhaps"}
    write_lines(run / "graded.jsonl", rows)
    assert grade_folder(run).reasons == EXPECTED
    assert graded_file.read_settings(run)["form"] == "answer"
