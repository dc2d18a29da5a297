"""metrics.jsonl: repeated steps, torn lines, what was not logged."""

import json

import pytest

from evaluation.pages import training_log
from tests.evaluation import fabricated


def write(path, *rows, end=""):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + end)
    return path


def test_the_later_line_of_a_step_counts_and_a_torn_last_line_does_not(tmp_path):
    rows = training_log.read(fabricated.write_training_log(tmp_path / "metrics.jsonl", 20))
    assert [row["step"] for row in rows] == list(range(1, 21))
    assert rows[0]["reward"] < 1  # 99.0 was written first


def test_only_training_steps_are_read(tmp_path):
    train, evaluation = {"kind": "train", "step": 1, "reward": 0.5}, {"kind": "eval", "step": 2, "reward": 9}
    path = write(tmp_path / "m", {"kind": "start"}, train, evaluation, {"step": 3, "reward": 0.7})
    assert training_log.curve(training_log.read(path), "reward") == ([1.0, 3.0], [0.5, 0.7])


def test_steps_are_put_in_order(tmp_path):
    path = write(tmp_path / "m", {"step": 10, "reward": 1}, {"step": 2, "reward": 2})
    assert training_log.curve(training_log.read(path), "reward")[0] == [2.0, 10.0]


def test_the_rollouts_own_mean_is_preferred_and_gaps_are_left_out():
    rows = [{"step": 1, "reward": 5, "rollout/reward_mean": 1}, {"step": 2}, {"step": 3, "reward": float("nan")}]
    assert training_log.curve(rows, "reward") == ([1.0], [1.0])
    assert training_log.curve(rows, "entropy") == ([], [])


@pytest.mark.parametrize("line", ["not json", "[1]", '{"kind": "train"}', '{"step": "x"}'])
def test_a_broken_line_in_the_middle_is_named(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"step": 1}}\n{line}\n{{"step": 2}}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl:2 is not"):
        training_log.read(path)


def test_a_broken_whole_last_line_is_named_too(tmp_path):
    with pytest.raises(ValueError, match=":2 is not"):
        training_log.read(write(tmp_path / "m", {"step": 1}, end="not json\n"))


def test_an_empty_log_has_no_steps(tmp_path):
    assert training_log.read(write(tmp_path / "m")) == []
