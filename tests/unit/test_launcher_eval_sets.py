"""--eval.dataset: several sets with columns of their own become one, and what could not be evaluated is refused."""

import json
from pathlib import Path

import pytest

from rpg_openrlhf.commands import train_rpg
from rpg_openrlhf.preflight import eval_sets
from rpg_openrlhf.problems.prompt import render_prompt
from rpg_openrlhf.problems.prompt_sets import in_messages
from tests.unit.launcher_case import argv, good_flags, write_rows

PROBLEMS = [{"id": "x", "problem": "What is 1+1?", "answer": "2"}, {"problem": "What is 2+2?", "answer": 4}]


@pytest.fixture
def good(tmp_path):
    return good_flags(tmp_path) | {"eval.steps": "2"}


def run(values):
    """What the trainer is given: its settings, the rows it evaluates on, and what was printed."""
    launched = []
    assert train_rpg.main(argv(values), launch=lambda args: launched.append(args) or 0) == 0
    lines = Path(launched[0].eval.dataset).read_text(encoding="utf-8").splitlines()
    return launched[0], [json.loads(line) for line in lines]


def refused(values, capsys) -> str:
    assert train_rpg.main(argv(values), launch=lambda args: pytest.fail("it was launched")) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    return err


def test_sets_of_different_columns_become_one(good, tmp_path, capsys):
    benchmark = write_rows(tmp_path / "aime24.jsonl", PROBLEMS)
    own = [{"input": "3+3=", "label": 6}, {"input": "4+4=", "label": 8, "datasource": "hard sums/é"}]
    args, rows = run(good | {"eval.dataset": f"{benchmark},{write_rows(tmp_path / 'val.v2.jsonl', own)}"})
    assert rows == [
        {"datasource": "aime24", "input": "What is 1+1?", "label": "2"},
        {"datasource": "aime24", "input": "What is 2+2?", "label": "4"},
        {"datasource": "val.v2", "input": "3+3=", "label": "6"},
        {"datasource": "hard_sums_é", "input": "4+4=", "label": "8"},
    ]
    assert Path(args.eval.dataset) == tmp_path / "out" / "logs" / "evaluation.jsonl"
    assert args.ckpt.best_metric_key == "eval/mean@4"
    said = capsys.readouterr().out
    assert "aime24 (2 problems), val.v2 (1 problems), hard_sums_é (1 problems): 4 samples each at" in said
    assert args.ckpt.record["flags"]["eval.dataset"].startswith(str(benchmark)), "a checkpoint knows what was asked"


def test_a_problem_is_asked_as_in_training(good, tmp_path):
    files = {"eval.dataset": str(write_rows(tmp_path / "b.jsonl", PROBLEMS[:1]))}
    worded = [{"input": render_prompt(f"{i}+1") if i == 1 else f"{i}+1", "label": "1"} for i in range(64)]
    training = {"data.prompt_dataset": str(write_rows(tmp_path / "worded.jsonl", worded))}
    assert run(good | files | training)[1][0]["input"] == render_prompt("What is 1+1?")
    template = {"data.input_template": "Q:{}"}
    assert run(good | files | training | template)[1][0]["input"] == "What is 1+1?", "upstream adds the words"


def test_texts_and_messages_become_messages(good, tmp_path):
    rows = [{"input": [{"role": "user", "content": "1+1"}], "label": "2"}]
    mixed = [*rows, {"input": "2+2", "label": "4"}]
    assert in_messages(mixed, "input") == [*rows, {"input": [{"role": "user", "content": "2+2"}], "label": "4"}]


def test_a_benchmark_by_name_is_the_hubs(good, monkeypatch):
    asked = []

    def from_hub(name, flag, fix):
        asked.append((name, flag))
        yield "hub:1", {"question": f"{name}?", "final_answer": ["1", "2"]}

    monkeypatch.setattr(eval_sets, "from_hub", from_hub)
    _, rows = run(good | {"eval.dataset": "aime24,olympiadbench"})
    assert asked == [("aime24", "--eval.dataset"), ("olympiadbench", "--eval.dataset")]
    assert [(row["datasource"], row["label"]) for row in rows] == [("aime24", "1, 2"), ("olympiadbench", "1, 2")]


def test_names_of_scores_are_offered(good, tmp_path, capsys):
    files = {"eval.dataset": str(write_rows(tmp_path / "b.jsonl", PROBLEMS)), "eval.n_samples_per_prompt": "8"}
    said = refused(good | files | {"ckpt.best_metric_key": "eval_default_pass1"}, capsys)
    assert "--ckpt.best_metric_key eval_default_pass1: is no score of this run's evaluation" in said
    assert "eval/mean@8, eval/b/mean@8, eval/b/pass@8, or none" in said
    for key in ("eval/b/pass@8", "none"):
        assert run(good | files | {"ckpt.best_metric_key": key})[0].ckpt.best_metric_key == key


BAD = {
    "b.jsonl": ('{"problem": "x"}\n', "b.jsonl:1 has no answer to grade by"),
    "c.jsonl": ('{"problem": "x", "answer": "1"}\n{"text": "x"}\n', "c.jsonl:2 has none of problem, question"),
    "d.jsonl": ('{"input": "x", "label": "1"}\n{"input": " "}\n', "d.jsonl:2 has no such column"),
    "e.jsonl": ("", "e.jsonl: holds no rows"),
    "f.jsonl": ('{"problem": "x"', "f.jsonl:1 is not JSON"),
    "g.jsonl": ("[1]\n", "g.jsonl:1 is not a JSON object"),
    "h.jsonl": ('{"problem": "x", "answer": "1"}\n' * 150 + "torn", "h.jsonl:151 is not JSON"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file(good, tmp_path, capsys, name):
    text, says = BAD[name]
    (tmp_path / name).write_text(text)
    assert says in refused(good | {"eval.dataset": str(tmp_path / name)}, capsys)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"eval.n_samples_per_prompt": "0"}, "--eval.n_samples_per_prompt 0: must be at least 1"),
        ({"eval.temperature": "-1"}, "--eval.temperature -1.0: must be at least 0"),
        ({"eval.temperature": "nan"}, "--eval.temperature nan"),
        ({"eval.temperature": "0"}, "--eval.n_samples_per_prompt 4: at --eval.temperature 0 all samples are the same"),
        ({"eval.steps": None}, "would never be used; give --eval.steps"),
        ({"eval.steps": "1000"}, "--eval.steps 1000: would never be reached, as the run has"),
        ({"eval.steps": "-1", "ckpt.best_metric_key": "eval/mean@4"}, "eval/mean@4: nothing is evaluated"),
        ({"eval.dataset": None, "ckpt.best_metric_key": "eval/mean@4"}, "eval/mean@4: nothing is evaluated"),
        ({"eval.dataset": "nowhere.jsonl"}, "--eval.dataset nowhere.jsonl: no such file"),
        ({"eval.dataset": "aime42"}, "--eval.dataset aime42: .*did you mean aime2"),
        ({"eval.split": "test"}, "--eval.split test: a single file has only the split train"),
    ],
)
def test_refused(good, tmp_path, capsys, monkeypatch, change, says):
    monkeypatch.setattr("rpg_openrlhf.problems.prompt_sets.hub_is_reachable", lambda: False)
    first = {"eval.dataset": str(write_rows(tmp_path / "b.jsonl", PROBLEMS))}
    line = refused(good | first | change, capsys)
    head, _, tail = says.partition(".*")
    assert head in line
    assert tail in line


def test_two_sets_of_one_name_and_a_cut_that_would_lose_one(good, tmp_path, capsys):
    (tmp_path / "other").mkdir()
    first, second = (write_rows(folder / "b.jsonl", PROBLEMS) for folder in (tmp_path, tmp_path / "other"))
    assert "would be called b in the logs" in refused(good | {"eval.dataset": f"{first},{second}"}, capsys)
    third = write_rows(tmp_path / "c.jsonl", [{"problem": str(i), "answer": "1"} for i in range(40)])
    cut = {"data.max_samples": "32", "train.batch_size": "64", "eval.steps": "1"}
    said = refused(good | cut | {"eval.dataset": f"{first},{third}"}, capsys)
    assert "--data.max_samples 32: also truncates the evaluation's" in said
    assert len(run(good | cut | {"eval.dataset": str(third)})[1]) == 32
