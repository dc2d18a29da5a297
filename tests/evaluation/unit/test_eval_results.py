"""A folder to results.json and summary.md: what is divided by what, what is warned of, what is refused."""

import json

import numpy as np
import pytest

from evaluation.scores.results import ResultsError, summarize, write_results

SCORE = {"value", "low", "high", "run_low", "run_high", "problems", "method"}


def sample(benchmark, problem, number, verdict="correct", tokens=100, strict=None):
    """A graded row; `verdict` is the reason, "cut wrong" a wrong answer at the token limit."""
    cut, reason = verdict in ("truncated", "cut wrong"), "wrong" if verdict == "cut wrong" else verdict
    correct = reason == "correct"
    answer = None if reason in ("no_answer", "truncated", "timeout") else "7" if correct else f"{number}"
    return {
        "benchmark": benchmark, "problem": problem, "sample": number, "correct": correct,
        "strict": correct if strict is None else strict, "reason": reason, "extracted": answer,
        "strict_extracted": answer, "tokens": tokens, "finish_reason": "length" if cut else "stop", "grader": "g",
    }  # fmt: skip


def votes_of(rows):
    """votes.json's problem entries, counted plainly."""
    answers = [row["extracted"] for row in rows if row["extracted"] is not None]
    groups = [{"answer": a, "count": answers.count(a), "correct": a == "7"} for a in sorted(set(answers))]
    groups.sort(key=lambda group: -group["count"])
    return {
        "n": len(rows), "correct": sum(row["correct"] for row in rows), "strict": sum(row["strict"] for row in rows),
        "no_answer": sum(row["reason"] in ("no_answer", "truncated") for row in rows),
        "truncated": sum(row["finish_reason"] == "length" for row in rows),
        "timeout": sum(row["reason"] == "timeout" for row in rows), "groups": groups, "majority": 0.0,
    }  # fmt: skip


def write_folder(folder, rows, n=4, planned=None, **files):
    """A run folder of these graded rows; `planned` problems of each benchmark."""
    names = list(dict.fromkeys([row["benchmark"] for row in rows] + list(planned or {})))
    problems = {name: sorted({row["problem"] for row in rows if row["benchmark"] == name}) for name in names}
    settings = {
        "model": {"name": "toy", "hash": "abc", "step": 10, "kind": "checkpoint", "checkpoint": None},
        "sampling": {"temperature": 1.0, "top_p": 1.0, "top_k": -1, "max_tokens": 512, "seed": 0, "dtype": "bfloat16"},
        "prompt": {"style": "dapo", "chat_template": False, "system": None, "template": "{problem}"},
        "n": n, "limit": None, "method": None, "label": "toy run",
        "benchmarks": {x: {"sha256": x, "rows_used": (planned or {}).get(x, len(problems[x]))} for x in names},
    }  # fmt: skip
    votes = {
        name: {
            i: votes_of([r for r in rows if (r["benchmark"], r["problem"]) == (name, i) and r["sample"] < n])
            for i in problems[name]
        }
        for name in names
    }
    write = {"settings.json": settings, "votes.json": {"grader": "g", "benchmarks": votes}} | files
    for name, content in write.items():
        (folder / name).write_text(json.dumps(content))
    (folder / "graded.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def grid(benchmark, table, **options):
    """Rows of {problem: [reason, ...]}."""
    return [sample(benchmark, p, i, reason, **options) for p, found in table.items() for i, reason in enumerate(found)]


GOOD = {"a": ["correct"] * 4, "b": ["correct", "wrong", "wrong", "wrong"], "c": ["wrong"] * 4}


def test_scores_of_a_complete_folder(tmp_path):
    write_folder(tmp_path, grid("x", GOOD))
    results = summarize(tmp_path)
    x = results["benchmarks"]["x"]
    assert results["complete"]
    assert (results["planned"], results["samples"], results["warnings"]) == (12, 12, [])
    assert (x["problems"], x["samples"], x["planned"], x["n_min"], x["n_max"]) == (3, 12, 12, 4, 4)
    assert x["mean"]["value"] == pytest.approx(5 / 12)
    assert {k: s["value"] for k, s in x["pass@k"].items()} == pytest.approx({"1": 5 / 12, "2": 0.5, "4": 2 / 3})
    assert x["best@k"]["4"]["value"] == pytest.approx((1 + 1 - 0.75**4) / 3)
    # Problem b: four answers with one vote each, one of them right.
    assert x["majority"]["value"] == pytest.approx((1 + 1 / 4) / 3)
    assert x["per_problem"]["b"] == {"n": 4, "correct": 1, "strict": 1, "majority": 0.25, "tokens": 100}
    for score in (x["mean"], x["strict"], x["majority"], *x["pass@k"].values(), *x["best@k"].values()):
        assert set(score) == SCORE
        assert 0 <= score["low"] <= score["value"] <= score["high"] <= 1
        assert 0 <= score["run_low"] <= score["value"] <= score["run_high"] <= 1
    assert x["clean"] is None
    assert results["provenance"] == {}


def test_existing_samples_divide_never_the_plan(tmp_path):
    """Half the samples of one problem and none of another: the scores stay, and the run says that it is incomplete."""
    table = {"a": ["correct"] * 4, "b": ["correct", "wrong"]}
    write_folder(tmp_path, grid("x", table), planned={"x": 3, "y": 2})
    results = summarize(tmp_path)
    x, y = results["benchmarks"]["x"], results["benchmarks"]["y"]
    assert not results["complete"]
    assert (results["samples"], results["planned"]) == (6, 20)
    assert x["mean"]["value"] == pytest.approx(0.75)
    assert (x["n_min"], x["n_max"], x["pass@k"]["4"]["problems"], x["pass@k"]["2"]["problems"]) == (2, 4, 1, 2)
    assert x["pass@k"]["4"]["value"] == 1
    assert "incomplete: 6 of 12 planned samples, 2 of 3 problems" in x["warnings"][0]
    assert y["mean"]["value"] is None
    assert y["pass@k"] == {}
    assert [text.split(":")[0] for text in results["warnings"]] == ["x", "y"]
    write_results(tmp_path)
    assert "| y | mean@0 | – | – | – | 0 of 2 |" in (tmp_path / "summary.md").read_text()


def test_samples_beyond_n_are_ignored(tmp_path):
    write_folder(tmp_path, grid("x", {"a": ["wrong", "wrong", "correct"], "b": ["correct"] * 3}), n=2)
    x = summarize(tmp_path)["benchmarks"]["x"]
    assert x["mean"]["value"] == 0.5
    assert list(x["pass@k"]) == ["1", "2"]


def test_one_sample_has_no_run_interval(tmp_path):
    write_folder(tmp_path, grid("x", {"a": ["wrong"], "b": ["correct"]}), n=1)
    mean = summarize(tmp_path)["benchmarks"]["x"]["mean"]
    assert mean["run_low"] is mean["run_high"] is None


@pytest.mark.parametrize(
    ("reasons", "parts"),
    [
        (["truncated", "cut wrong", "correct", "correct"], ["50.0 % of samples cut off at 512 tokens: ra", "cut off"]),
        (["no_answer", "correct", "correct", "wrong"], ["25.0 % of samples hold no extractable answer: check --p"]),
        (["timeout", "correct", "correct", "wrong"], ["25.0 % of answers are too costly to compare"]),
        (["correct", "correct", "wrong", "wrong"], []),
    ],
)  # fmt: skip
def test_low_scores_that_are_something_else(tmp_path, reasons, parts):
    write_folder(tmp_path, grid("x", {"a": reasons}))
    found = summarize(tmp_path)["benchmarks"]["x"]["warnings"]
    assert len(found) == len(parts)
    for text, part in zip(found, parts, strict=True):
        assert part in text


def test_twenty_percent_is_not_more_than_twenty_percent(tmp_path):
    write_folder(tmp_path, grid("x", {"a": ["no_answer"] + ["correct"] * 4}), n=5)
    assert summarize(tmp_path)["warnings"] == []


def test_the_clean_part(tmp_path):
    seen = {
        "examined": {"x": 3, "y": 1},
        "training_file": "t",
        "sha256": "s",
        "rows": 9,
        "benchmarks": {"x": {"a": {"kind": "exact", "rows": [3]}}},
    }
    rows = grid("x", GOOD) + grid("y", {"q": ["wrong"] * 4})
    write_folder(tmp_path, rows, **{"contamination.json": seen})
    x, y = summarize(tmp_path)["benchmarks"].values()
    assert (x["clean"]["problems"], x["clean"]["repeated"]) == (2, 1)
    assert x["clean"]["mean"]["value"] == pytest.approx(1 / 8)
    assert y["clean"] is None
    seen["benchmarks"]["x"] = {i: {"kind": "near", "rows": [1]} for i in GOOD}
    write_folder(tmp_path, rows, **{"contamination.json": seen})
    clean = summarize(tmp_path)["benchmarks"]["x"]["clean"]
    assert (clean["problems"], clean["mean"]["value"]) == (0, None)


def test_files_are_written_whole_and_are_plain_json(tmp_path):
    made = {"versions": {"vllm": "1.2"}, "wall_seconds": 61.4, "tokens_per_second": 1234.5, "machine": {"gpus": 0}}
    write_folder(tmp_path, grid("x", GOOD) + grid("y", {"q": ["truncated"] * 4}), **{"provenance.json": made})
    results = write_results(tmp_path)
    assert json.loads((tmp_path / "results.json").read_text(), parse_constant=pytest.fail) == results
    assert results["provenance"] == made
    text = (tmp_path / "summary.md").read_text()
    assert text.index("**Warning**: y: 100.0 % of samples cut off") < text.index("temperature 1.0")
    for part in (
        "n 4",
        "prompt dapo",
        "vllm 1.2",
        "61 s",
        "1234 tokens/s",
        "| x | mean@4 | 41.7 |",
        "best@4",
        "maj@4",
    ):
        assert part in text
    assert {path.name for path in tmp_path.iterdir()} >= {"results.json", "summary.md"}


def test_the_order_of_rows_changes_nothing(tmp_path):
    rows = grid("x", GOOD)
    write_folder(tmp_path, rows)
    before = summarize(tmp_path)
    shuffled = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]
    (tmp_path / "graded.jsonl").write_text("".join(json.dumps(row) + "\n" for row in shuffled))
    assert summarize(tmp_path) == before


def test_a_regraded_row_replaces_the_old_one_and_a_cut_line_is_not_one(tmp_path):
    rows = grid("x", GOOD)
    write_folder(tmp_path, rows)
    before = summarize(tmp_path)
    stale = [rows[0] | {"correct": False}, *rows]
    (tmp_path / "graded.jsonl").write_text("".join(json.dumps(row) + "\n" for row in stale) + '{"benchmark": "x", "pr')
    assert summarize(tmp_path) == before


@pytest.mark.parametrize("missing", ["settings.json", "votes.json", "graded.jsonl"])
def test_missing_files_say_what_to_run(tmp_path, missing):
    write_folder(tmp_path, grid("x", GOOD))
    (tmp_path / missing).unlink()
    with pytest.raises(ResultsError, match=rf"{missing} does not exist: .*evaluation\.(run|grade)"):
        summarize(tmp_path)


def test_files_out_of_step_are_refused(tmp_path):
    write_folder(tmp_path, grid("x", GOOD))
    lines = (tmp_path / "graded.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "graded.jsonl").write_text("".join(lines[:-1]))
    with pytest.raises(ResultsError, match=r"votes\.json has 0 of 4 for x c, graded\.jsonl 0 of 3"):
        summarize(tmp_path)
    (tmp_path / "graded.jsonl").write_text("[]\n")
    with pytest.raises(ResultsError, match=r"graded\.jsonl:1 is not a graded sample"):
        summarize(tmp_path)
