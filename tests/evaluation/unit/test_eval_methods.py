"""Methods over seeds: how series are sorted, what the tables hold, what the page says, and what is refused."""

import csv
import json

import pytest

from evaluation.commands import methods as command
from evaluation.pages import folders, methods, reading
from evaluation.scores.seeds import Difference
from tests.evaluation import fabricated
from tests.evaluation.fabricated import Made

SUMS = {"sums": Made(40, 0.5)}
GOOD, BAD = {"sums": Made(40, 0.9)}, {"sums": Made(40, 0.2)}


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """Two methods, far apart, three seeds of each, and their start."""
    place = tmp_path_factory.mktemp("compared")
    for method, skill in (("rpg_reinforce_urkl", GOOD), ("grpo_as_released", BAD)):
        for seed in (1, 2, 3):
            folder = place / "runs" / f"{method}-seed{seed}" / "evaluation"
            fabricated.write_series(folder, f"{method}-seed{seed}", (4, 8), benchmarks=skill, n=8, seed=seed)
    fabricated.write_run(place / "start", "start", SUMS)
    assert command.main([str(place / "runs"), "--output", str(place / "out"), "--start", str(place / "start")]) == 0
    return place


def means(place, method, step):
    files = sorted(place.glob(f"runs/{method}-seed*/evaluation/step_{step:06d}/results.json"))
    return [json.loads(path.read_text())["benchmarks"]["sums"]["mean"]["value"] for path in files]


def test_the_table_has_the_mean_of_the_last_checkpoints(compared):
    with (compared / "out" / "tables" / "last_best.csv").open(newline="") as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    assert rows.keys() == {"RPG-REINFORCE-URKL", "GRPO"}
    for layer, name in (("rpg_reinforce_urkl", "RPG-REINFORCE-URKL"), ("grpo_as_released", "GRPO")):
        last = means(compared, layer, 8)
        assert (rows[name]["runs"], float(rows[name]["sums Last"])) == ("3", pytest.approx(sum(last) / 3))
        best = [max(pair) for pair in zip(means(compared, layer, 4), last, strict=True)]
        assert float(rows[name]["sums Best"]) == pytest.approx(sum(best) / 3)
        assert float(rows[name]["sums Last low"]) < sum(last) / 3 < float(rows[name]["sums Last high"])


def test_the_page_says_what_differs(compared):
    text = (compared / "out" / "methods.md").read_text()
    assert "2 methods, 3 runs of each, evaluated after 4, 8 rollouts." in text
    assert "Sums, from the highest down: RPG-REINFORCE-URKL" in text
    assert "RPG-REINFORCE-URKL ends" in text
    assert "above GRPO" in text
    assert "Training reward, from the highest down: " in text
    assert (compared / "out" / "methods.png").stat().st_size > 20_000


def test_a_reward_is_not_compared_where_groups_are_kept_by_it(tmp_path):
    for seed in (1, 2):
        fabricated.write_series(tmp_path / f"dapo-seed{seed}", f"dapo-seed{seed}", (4,), benchmarks=SUMS, n=2)
    log = tmp_path / "dapo-seed2" / "metrics.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()[:-1]]
    log.write_text("".join(json.dumps(row | {"dynamic_filtering_pass_rate": 90.0}) + "\n" for row in rows))
    (method,) = methods.by_method(folders.find([tmp_path]).series)
    assert method.name == "DAPO"
    assert methods.rewards_of(method).keys() == {1}
    assert methods.rewards_of(method)[1] == pytest.approx(0.125, abs=0.2)


def pair(first, second, value, low, high, p):
    return methods.Pair(first, second, Difference(value, low, high, p, 5), p)


def test_the_higher_method_is_named_first_whichever_way_the_pair_stands():
    lines = reading.differences(
        [pair("A", "B", -0.2, -0.3, -0.1, 0.001), pair("A", "C", 0.01, -0.1, 0.12, 0.9)], "sums"
    )
    assert lines[0] == "sums: B ends 0.200 above A (95 %: 0.100 to 0.300, Holm's p 0.001)."
    assert lines[1].startswith("This does not show that the other 1 of 2 pairs are equal")
    assert "up to 0.120 (A and C)" in lines[1]


def test_no_difference_is_not_called_equality():
    lines = reading.differences([pair("A", "B", 0.01, -0.05, 0.07, 0.6)], "sums")
    assert lines[0] == "sums: after correction for 1 pairs no two methods differ at the last checkpoint."
    assert "does not show that the 1 pairs are equal" in lines[1]


def test_a_run_that_ends_below_its_start_is_broken(compared):
    found = methods.by_method(folders.find([compared / "runs"]).series)
    lines = reading.broken(found, "sums", 0.6)
    assert [line.split(" breaks in ")[0] for line in lines] == ["GRPO", "No run of RPG-REINFORCE-URKL breaks."]
    assert "GRPO breaks in 3 of 3 runs: seed 1 " in lines[0]
    assert reading.broken(found, "sums", None) == ["No run of GRPO, RPG-REINFORCE-URKL breaks."]


def test_refusals_are_one_line(tmp_path, capsys):
    fabricated.write_series(tmp_path / "a", "no seed here", (4,), benchmarks=SUMS, n=2)
    for words, says in (
        ([tmp_path / "a"], "its label 'no seed here' is not METHOD-seedN"),
        ([tmp_path / "none"], "is not a folder"),
        ([tmp_path / "a", "--start", tmp_path / "none"], "is not METHOD-seedN"),
    ):
        assert command.main([*map(str, words), "--output", str(tmp_path / "out")]) == 2
        said = capsys.readouterr().err
        assert (said.count("\n"), says in said) == (1, True), said
    assert not (tmp_path / "out").exists()
