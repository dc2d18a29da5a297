"""What an evaluation logs of graded samples."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rpg_openrlhf.runs.evaluation import Sample, scores, summarize


def samples(*grades: float, **rest) -> list[Sample]:
    return [Sample(grade, tokens=10.0 * place, truncated=0.0, **rest) for place, grade in enumerate(grades)]


def test_two_benchmarks():
    logged = summarize(
        {"a": [samples(1, 0, 0, 0, no_answer=0.5), samples(0, 0, 0, 0, no_answer=0.0)], "b": [samples(1, 1, 1, 1)]}, 4
    )
    assert logged == {
        "eval/a/mean@4": 0.125,
        "eval/a/pass@4": 0.5,
        "eval/a/response_length_mean": 15.0,
        "eval/a/truncated_rate": 0.0,
        "eval/a/no_answer": 0.25,
        "eval/b/mean@4": 1.0,
        "eval/b/pass@4": 1.0,
        "eval/b/response_length_mean": 15.0,
        "eval/b/truncated_rate": 0.0,
        "eval/mean@4": 0.5625,
        "eval/num_samples": 12.0,
    }


def test_one_sample_has_no_second_name():
    assert set(summarize({"a": [samples(1)]}, 1)) & {"eval/a/mean@1", "eval/a/pass@1"} == {"eval/a/mean@1"}
    assert scores(["a", "b"], 1) == ["eval/mean@1", "eval/a/mean@1", "eval/b/mean@1"]


def test_nothing_sampled_is_no_score():
    assert summarize({}, 4) == {"eval/num_samples": 0.0}


grades = st.lists(st.lists(st.sampled_from([0.0, 1.0]), min_size=3, max_size=3), min_size=1, max_size=9)


@given(st.dictionaries(st.sampled_from("abc"), grades, min_size=1))
def test_of_any_grades(found):
    logged = summarize({name: [samples(*group) for group in groups] for name, groups in found.items()}, 3)
    assert set(scores(found, 3)) <= set(logged), "what can be chosen is logged"
    for name, groups in found.items():
        mean, passed = logged[f"eval/{name}/mean@3"], logged[f"eval/{name}/pass@3"]
        assert mean == pytest.approx(sum(map(sum, groups)) / (3 * len(groups)))
        assert passed == pytest.approx(sum(any(group) for group in groups) / len(groups))
        assert mean <= passed + 1e-12 <= min(1, 3 * mean) + 2e-12
    means = [logged[f"eval/{name}/mean@3"] for name in found]
    assert min(means) - 1e-12 <= logged["eval/mean@3"] <= max(means) + 1e-12
    assert logged["eval/num_samples"] == 3 * sum(map(len, found.values()))
