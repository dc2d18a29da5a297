"""Runs and series are found wherever they lie; labels tell them apart."""

import json
import os

import pytest

from evaluation.pages import folders, verdict
from tests.evaluation import fabricated
from tests.evaluation.fabricated import Made

SMALL = {"aime24": Made(3, 0.5)}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("all")
    fabricated.write_run(place / "deep" / "er" / "base", "base", SMALL, n=2)
    fabricated.write_series(place / "s", "RPG", (10, 20, 30), failed=(20,), benchmarks=SMALL, n=2)
    return place


def test_everything_below_a_folder_is_found_once(place):
    found = folders.find([place, place / "s", place / "s" / "step_000010"])
    assert [run.label for run in found.runs] == ["base"]
    assert [run.label for run in found.series[0].runs] == ["RPG step 10", "RPG step 30"]
    assert found.series[0].failed == ({"step": 20, "status": "failed", "error": "config.json is not JSON"},)
    assert [run.label for run in found.ends] == ["base", "RPG step 10", "RPG step 30"]
    assert [run.label for run in found.finals] == ["base", "RPG step 30"]


def test_a_series_may_have_moved(place, tmp_path):
    moved = tmp_path / "moved"
    os.rename(fabricated.write_series(tmp_path / "old", "M", (1,), benchmarks=SMALL, n=2), moved)
    assert folders.find([moved]).series[0].runs[0].folder == moved / "step_000001"


def test_a_final_model_without_a_step_comes_last(tmp_path):
    place = fabricated.write_series(tmp_path / "s", "S", (5, 10), benchmarks=SMALL, n=2)
    content = json.loads((place / "series.json").read_text())
    os.rename(place / "step_000005", place / "final")
    content["checkpoints"][0] |= {"step": None, "folder": "final"}
    (place / "series.json").write_text(json.dumps(content))
    assert [run.label for run in folders.find([place]).series[0].runs] == ["S step 10", "S final"]


def test_equal_labels_are_told_apart(tmp_path):
    for name in ("x", "y", "z/x"):
        fabricated.write_run(tmp_path / name, "same", SMALL, n=2)
    labels = [run.label for run in folders.find([tmp_path]).runs]
    assert labels == ["same", "same (y)", "same (x)"]


def test_a_link_does_not_rename_a_run(tmp_path):
    fabricated.write_run(tmp_path / "a_real", "base", SMALL, n=2)
    (tmp_path / "z_latest").symlink_to(tmp_path / "a_real")
    assert [run.folder for run in folders.find([tmp_path]).runs] == [tmp_path / "a_real"]


def test_a_run_is_picked_by_label_folder_or_series(place):
    found = folders.find([place])
    assert folders.pick(found, "base") is found.runs[0]
    assert folders.pick(found, "RPG") is found.series[0].runs[-1]
    assert folders.pick(found, "RPG step 10") is found.series[0].runs[0]
    assert folders.pick(found, str(place / "s" / "step_000010")) is found.series[0].runs[0]
    with pytest.raises(ValueError, match=r"--compare nobody: .*'base', 'RPG'"):
        folders.pick(found, "nobody")


def test_a_benchmark_without_samples_is_left_out(tmp_path):
    path = fabricated.write_run(tmp_path / "r", "r", SMALL, n=2) / "results.json"
    results = json.loads(path.read_text())
    none = dict.fromkeys(("value", "low", "high"))
    results["benchmarks"]["amc23"] = {"samples": 0, "mean": none, "warnings": ["incomplete: 0 of 80"]}
    path.write_text(json.dumps(results))
    assert list(folders.find([tmp_path]).runs[0].benchmarks) == ["aime24"]


@pytest.mark.parametrize("made", ["nothing", "ungraded", "file"])
def test_nothing_is_one_line(tmp_path, made):
    place = tmp_path / "place"
    if made == "file":
        place.write_text("")
    else:
        place.mkdir()
    if made == "ungraded":
        (place / "settings.json").write_text("{}")
    with pytest.raises(ValueError, match=r"place (holds no|is not a)"):
        folders.find([place])


def test_results_older_than_the_verdicts_are_made_anew(tmp_path):
    folder = fabricated.write_run(tmp_path / "r", "r", SMALL, n=2)
    (folder / "results.json").write_text('{"settings": {}, "benchmarks": {}}')
    os.utime(folder / "results.json", (1, 1))
    assert folders.find([tmp_path]).runs[0].benchmarks["aime24"]["samples"] == 6


def test_a_run_without_a_sample_is_named(tmp_path):
    fabricated.write_run(tmp_path / "a", "a", SMALL, n=2)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "settings.json").write_text("{}")
    (tmp_path / "b" / "samples.jsonl").touch()
    found = folders.find([tmp_path])
    assert [run.label for run in found.runs] == ["a"]
    assert verdict.warnings(found)[0] == f"{tmp_path / 'b'} has no sample and is left out."
