"""A reward function of the user's decides what is right, in place of the grader."""

import json

import pytest

from evaluation.commands.grade import main
from evaluation.grading import graded_row
from evaluation.grading.custom_reward import CustomReward, RewardError
from evaluation.grading.graded_file import GradeError
from evaluation.grading.graded_folder import SampleGrader, grade_folder
from tests.evaluation.graded_case import read_lines, write_run

LONGER = """
def reward_func(queries, prompts, labels):
    return {"rewards": [1.0 if len(queries[0]) - len(prompts[0]) > 20 else -1.0]}
"""


@pytest.fixture
def reward(tmp_path):
    path = tmp_path / "longer.py"
    path.write_text(LONGER)
    yield path
    graded_row.use_reward(None)


def test_its_verdicts_are_the_folders(tmp_path, reward, capsys):
    folder = write_run(tmp_path / "run")
    grade_folder(folder)
    own = [row["correct"] for row in read_lines(folder / "graded.jsonl")]
    assert main([str(folder), "--reward", str(reward)]) == 0
    assert "made again (longer.py+" in capsys.readouterr().out
    rows = read_lines(folder / "graded.jsonl")
    texts = {(row["problem"], row["sample"]): row["text"] for row in read_lines(folder / "samples.jsonl")}
    assert [row["correct"] for row in rows] == [len(texts[row["problem"], row["sample"]]) > 20 for row in rows]
    assert [row["correct"] for row in rows] != own
    assert json.loads((folder / "results.json").read_text())["benchmarks"]
    graded_row.use_reward(None)
    with pytest.raises(GradeError, match=r"has verdicts of longer.py\+.*: give --reward with that file"):
        grade_folder(folder)
    with pytest.raises(GradeError, match="give --reward"):
        SampleGrader(folder)  # before a sample is drawn
    assert grade_folder(folder, regrade=True).regraded == len(rows), "asked for in so many words"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x = 1", "defines no reward_func"),
        ("import nowhere", "ModuleNotFoundError: No module named 'nowhere'"),
        ("def reward_func(queries, prompts, labels): return {}", "small/one: KeyError: 'rewards'"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_line(tmp_path, text, says, capsys):
    path = tmp_path / "bad.py"
    path.write_text(text)
    folder = write_run(tmp_path / "run")
    try:
        assert main([str(folder), "--reward", str(path)]) == 2
    finally:
        graded_row.use_reward(None)
    error = capsys.readouterr().err
    assert error.startswith(f"evaluation.grade: error: --reward {path}: ")
    assert says in error
    assert error.count("\n") == 1


def test_scores_go_before_rewards(tmp_path):
    path = tmp_path / "both.py"
    path.write_text("def reward_func(queries, prompts, labels): return {'rewards': [-0.5], 'scores': [1.0]}")
    assert CustomReward(path).is_right({"gold": "1", "prompt": "p"}, "text")
    with pytest.raises(RewardError, match="No such file"):
        CustomReward(tmp_path / "none.py")
