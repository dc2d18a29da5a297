"""The words before the numbers."""

import pytest

from evaluation.pages import folders, verdict
from tests.evaluation import fabricated
from tests.evaluation.fabricated import Made

TINY = {"aime24": Made(4, 0.5), "amc23": Made(4, 0.6)}


def found(place):
    return folders.find([place])


def test_one_run_is_told_with_both_intervals(tmp_path):
    fabricated.write_run(tmp_path, "M", TINY, n=4)
    text = verdict.paragraph(found(tmp_path))
    of = found(tmp_path).runs[0].benchmarks["aime24"]["mean"]
    words = f"{of['value']:.3f} on AIME24 ({of['low']:.3f} to {of['high']:.3f} over problems; {of['run_low']:.3f} to"
    assert text.startswith(f"M scores, with 4 samples of each problem, {words}")


def test_a_series_is_told_from_first_to_last(tmp_path):
    fabricated.write_series(tmp_path, "S", (10, 20, 30), benchmarks=TINY, n=4)
    assert verdict.paragraph(found(tmp_path)).startswith("S goes, over 3 checkpoints, step 10 to step 30, from 0.")


def test_of_many_the_highest_is_told(tmp_path):
    for label, skill in (("low", 0.1), ("high", 0.9), ("mid", 0.5)):
        fabricated.write_run(tmp_path / label, label, {"aime24": Made(20, skill)}, n=8)
    assert "Of 3 models, the highest mean is that of high on AIME24" in verdict.paragraph(found(tmp_path))


def test_nothing_wrong_is_nothing_said(tmp_path):
    fabricated.write_run(tmp_path, "M", TINY, n=8, no_answer=0, truncated=0)
    assert verdict.warnings(found(tmp_path)) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"keep": 0.5}, "M: incomplete, "),
        ({"truncated": 0.9}, "of samples: truncated"),
        ({"no_answer": 0.9}, "of samples: no_answer"),
        ({"contaminated": True}, "M, AMC23: the training data repeats 2 of the 4 problems; all give "),
    ],
)
def test_what_lowers_or_spoils_a_score_is_said(tmp_path, options, words):
    fabricated.write_run(tmp_path, "M", TINY, n=8, **options)
    assert any(words in line for line in verdict.warnings(found(tmp_path)))


def test_forty_checkpoints_of_one_kind_take_one_line(tmp_path):
    fabricated.write_series(tmp_path, "S", (1, 2, 3), failed=(2,), benchmarks=TINY, n=8, truncated=0.9)
    lines = verdict.warnings(found(tmp_path))
    assert lines[0] == "S: step 2 has no numbers: config.json is not JSON"
    assert lines[1].startswith("S step 3: AIME24: ")
    assert lines[1].endswith("1 more of its checkpoints have warnings.")
    assert len(lines) == 2
