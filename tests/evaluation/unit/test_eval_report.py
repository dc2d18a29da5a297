"""The command: what it writes, prints and refuses; and what the browser's data may cost."""

import csv
import json
import re

import pytest

from evaluation.commands import report
from evaluation.pages import sample_browser
from evaluation.scores.results import write_results
from tests.evaluation import fabricated
from tests.evaluation.fabricated import Made

SMALL = {"aime24": Made(5, 0.5), "mine": Made(4, 0.6)}
TINY = {"aime24": Made(5, 0.5)}


def read_csv(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    place = tmp_path_factory.mktemp("series")
    fabricated.write_series(place, "RPG", (10, 20, 30), failed=(20,), benchmarks=SMALL, n=4)
    report.build([place], place)
    return place


def test_a_series_has_all_its_files(series):
    names = {str(path.relative_to(series)) for path in series.rglob("*") if path.is_file()}
    tables = ("last_best", "selection", "scores", "methods", "pass_at_k", "comparison", "all_scores")
    assert {f"tables/{name}.{suffix}" for name in tables for suffix in ("csv", "md", "tex")} <= names
    assert {f"figures/{name}.png" for name in ("panels", "scores", "pass_at_k", "lengths")} <= names
    assert {"report.html", "summary.md"} <= names
    assert not [name for name in names if "partial" in name]


def test_last_and_best_are_those_of_the_checkpoints(series):
    row = read_csv(series / "tables" / "last_best.csv")[0]
    means = {}
    for step in (10, 30):
        results = json.loads((series / f"step_{step:06d}" / "results.json").read_text())
        means[step] = results["benchmarks"]["aime24"]["mean"]["value"]
    assert float(row["AIME24 Last"]) == pytest.approx(means[30])
    assert float(row["AIME24 Best"]) == pytest.approx(max(means.values()))
    chosen = read_csv(series / "tables" / "selection.csv")[0]
    assert chosen["evaluations"] == "2"
    assert float(chosen["Best, corrected"]) <= float(chosen["Best"])


def test_the_summary_names_the_failed_checkpoint_and_last_and_best(series):
    text = (series / "summary.md").read_text()
    assert "step 20 has no numbers: config.json is not JSON" in text
    assert "AIME24 Last" in text
    assert "evaluations" in text


def test_a_single_run_keeps_its_own_summary(tmp_path):
    folder = fabricated.write_run(tmp_path / "run", "r", TINY, n=4)
    (folder / "summary.md").write_text("its own")
    report.build([folder], folder)
    assert (folder / "summary.md").read_text() == "its own"


def test_real_results_are_understood(tmp_path):
    folder = fabricated.write_run(tmp_path / "run", "r", TINY, n=4, keep=0.8, truncated=0.5)
    write_results(folder)
    written = report.build([folder], tmp_path / "out")
    assert "incomplete" in written.warnings[0]
    assert "raise --max-tokens" in written.warnings[0]


def test_one_sample_a_problem_has_no_interval_from_run_to_run(tmp_path):
    folder = fabricated.write_run(tmp_path / "run", "r", TINY, n=1)
    write_results(folder)
    page = report.build([folder], tmp_path / "out").page.read_text()
    assert "with one sample of each problem" in page


def test_two_reports_of_the_same_files_are_the_same(tmp_path):
    folder = fabricated.write_run(tmp_path / "run", "r", TINY, n=2, hostile=True)
    pages = [report.build([folder], tmp_path / name).page.read_bytes() for name in ("a", "b")]
    assert pages[0] == pages[1]


def test_no_text_leaves_its_place(tmp_path):
    folder = fabricated.write_run(tmp_path / "run", "LABEL", TINY, n=2, hostile=True)
    label = "</title><script>window.pwned=1</script>\ud800\x00$\\frac"
    for path in (folder / "settings.json", folder / "results.json"):
        path.write_text(path.read_text().replace('"LABEL"', json.dumps(label)))
    text = report.build([folder], tmp_path / "out").page.read_text()
    assert text.count("<script") == 2  # the data and the page's own
    assert text.count("</script") == 2
    assert "<img" not in text
    assert "<!--" not in text
    assert not re.search(r"\son\w+=", text.split("<script")[0])
    assert not re.search(r"\sstyle=", text)
    assert "\x00" not in text
    assert "http" not in re.sub(r"http://www\.w3\.org/\S+|https?-equiv|http-equiv", "", text.split("<script")[0])


def test_the_data_read_back_are_the_texts(tmp_path):
    folder = fabricated.write_run(tmp_path / "run", "r", {"aime24": Made(8, 0.5)}, n=1, hostile=True)
    text = report.build([folder], tmp_path / "out").page.read_text()
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])
    texts = [sample["text"] for sample in data["samples"]]
    assert texts[:6] == list(fabricated.HOSTILE[:6])
    assert "characters left out here" in texts[6]
    assert texts[6].endswith("THE END OF A LONG LINE\nAnswer: 7")
    assert len(texts[6]) < sample_browser.LONGEST + 100


def test_a_page_stays_below_its_budget(tmp_path):
    folder = fabricated.write_run(tmp_path / "run", "r", {"aime24": Made(30, 0.5)}, n=8)
    path = folder / "samples.jsonl"
    rows = [json.loads(line) | {"text": "<" * 30_000 + "end"} for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = report.folders.find([folder]).runs
    for budget in (900_000, 60_000):
        carried = sample_browser.carry(run, budget)
        assert len(sample_browser.script_json(carried.data)) <= budget
        assert 0 < len(carried.data["samples"]) < 240
        assert f"{len(carried.data['samples'])} of 240 samples are here" in carried.note


def test_a_torn_last_line_is_left_out(tmp_path):
    folder = fabricated.write_run(tmp_path / "run", "r", TINY, n=2)
    for name in ("samples", "graded"):
        with (folder / f"{name}.jsonl").open("a") as file:
            file.write('{"benchmark": "aime24", "prob')
    carried = sample_browser.carry(report.folders.find([folder]).runs)
    assert len(carried.data["samples"]) == 10
    assert carried.note == "All 10 samples of these runs are here."


def test_each_verdict_of_a_problem_is_carried_first():
    rows = [{"sample": i, "reason": reason} for i, reason in enumerate(["wrong"] * 6 + ["correct", "timeout"])]
    assert [row["sample"] for row in sample_browser._pick(rows, 4)] == [0, 6, 7, 1]


def test_the_command_prints_the_scores_and_the_paths(tmp_path, capsys):
    folder = fabricated.write_run(tmp_path / "run", "my model", TINY, n=4)
    assert report.main([str(folder), "--output", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert re.search(r"AIME24 +my model +4 +0\.\d{3} \[0\.\d{3}, ", out)
    assert str(tmp_path / "out" / "report.html") in out


def test_a_pair_is_compared_in_the_order_asked_for(tmp_path):
    a, b = (fabricated.write_run(tmp_path / name, name.upper(), TINY, n=4) for name in ("a", "b"))
    assert report.main([str(a), str(b), "--compare", "A", "B", "--output", str(tmp_path / "out")]) == 0
    rows = {row["benchmark"]: row for row in read_csv(tmp_path / "out" / "tables" / "comparison.csv")}
    row = rows["AIME24"]
    assert float(row["difference"]) == pytest.approx(float(row["first"]) - float(row["second"]))
    assert "A minus B" in (tmp_path / "out" / "summary.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "name at least one DIR"),
        (["EMPTY"], "holds no evaluated model"),
        (["EMPTY/none"], "is not a folder"),
        (["RUN", "--compare", "r", "nobody"], "--compare nobody"),
        (["RUN", "--training-log", "m.jsonl"], "--training-log m.jsonl"),
    ],
)
def test_bad_input_is_one_line_and_status_2(tmp_path, capsys, arguments, words):
    (tmp_path / "EMPTY").mkdir()
    fabricated.write_run(tmp_path / "RUN", "r", TINY, n=2)
    places = [str(tmp_path / word) if word.startswith(("EMPTY", "RUN")) else word for word in arguments]
    try:
        status = report.main(places)
    except SystemExit as stopped:
        status = stopped.code
    error = capsys.readouterr().err
    assert status == 2
    assert words in error
    assert error.startswith("evaluation.report: error: ")
    assert error.count("\n") == 1


def test_a_missing_training_log_is_said(tmp_path):
    place = fabricated.write_series(tmp_path / "s", "S", (1, 2), benchmarks=TINY, n=2)
    (place / "metrics.jsonl").unlink()
    written = report.build([place], place)
    assert any("does not exist" in line for line in written.warnings)


def test_an_incomparable_run_is_told_of_and_stops_nothing(tmp_path):
    fabricated.write_run(tmp_path / "a", "A", {"aime24": Made(4, 0.5)}, n=2)
    fabricated.write_run(tmp_path / "b", "B", {"mine": Made(4, 0.5)}, n=2)
    written = report.build([tmp_path], tmp_path / "out")
    assert any("B and A are not compared" in line for line in written.warnings)


def test_a_broken_training_log_is_said_and_stops_nothing(tmp_path):
    place = fabricated.write_series(tmp_path / "s", "S", (1, 2), benchmarks=TINY, n=2)
    (place / "metrics.jsonl").write_text("broken\n{}\n")
    written = report.build([place], place)
    assert any("metrics.jsonl:1 is not" in line for line in written.warnings)
