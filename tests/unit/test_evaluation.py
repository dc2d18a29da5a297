"""Upstream's eval samples, each to its benchmark and problem."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rpg_openrlhf.runs.evaluation import graded, metrics


def answer(prompt: str, score=1.0, reward=1.0, label="1", truncated=False, **info) -> SimpleNamespace:
    """An Experience of one response, as upstream's generator makes it."""
    return SimpleNamespace(
        prompts=[prompt],
        labels=[label],
        scores=None if score is None else torch.tensor([score]),
        rewards=None if reward is None else torch.tensor([reward]),
        response_length=torch.tensor([8]),
        truncated=torch.tensor([truncated]),
        info={name: torch.tensor([value]) for name, value in info.items()},
    )


def loader(*rows: tuple[str, str, str]) -> list:
    """Batches of one (benchmark, prompt, label), as PromptDataset collates them."""
    return [([name], [prompt], [label], [None]) for name, prompt, label in rows]


def test_a_score_is_not_a_reward():
    """Upstream's pass@1 of a wrong answer is -1."""
    assert graded(answer("p", score=0.0, reward=-1.0)).score == 0
    assert graded(answer("p", score=None, reward=0.25)).score == 0.25
    assert graded(answer("p", score=None, reward=None)).score == 0, "its reward function failed"
    assert graded(answer("p")).no_answer is None
    assert graded(answer("p", no_answer=1.0, truncated=True))[2:] == (1.0, 1.0)


def test_samples_in_the_order_they_were_finished():
    asked = loader(("a", "p1", "1"), ("a", "p2", "1"), ("b", "p3", "1"))
    done = [answer("p3", 1.0), answer("p3", 0.0), answer("p2", 0.0), answer("p2", 0.0), answer("p1"), answer("p1")]
    logged = metrics(asked, done, 2)
    assert {name: logged[f"eval/{name}"] for name in ("a/mean@2", "a/pass@2", "b/mean@2", "b/pass@2", "mean@2")} == {
        "a/mean@2": 0.5, "a/pass@2": 0.5, "b/mean@2": 0.5, "b/pass@2": 1.0, "mean@2": 0.5,
    }  # fmt: skip


def test_a_problem_of_two_benchmarks_counts_in_both():
    """Upstream keeps one benchmark a prompt, the last."""
    asked = loader(("a", "same", "1"), ("b", "same", "1"), ("b", "same", "2"))
    done = [answer("same", 1.0), answer("same", 1.0), answer("same", 0.0), answer("same", 0.0)]
    done += [answer("same", 1.0, label="2"), answer("same", 0.0, label="2")]
    logged = metrics(asked, done, 2)
    assert (logged["eval/a/mean@2"], logged["eval/b/mean@2"]) == (1.0, 0.25)
    assert logged["eval/num_samples"] == 6


def test_an_agents_own_prompts_are_nobodys():
    logged = metrics(loader(("a", "p", "1")), [answer("p"), answer("p rewritten", 0.0)], 1)
    assert (logged["eval/a/mean@1"], logged["eval/unknown/mean@1"]) == (1.0, 0.0)


def test_labels_may_be_numbers():
    assert metrics(loader(("a", "p", 7)), [answer("p", label=7)], 1)["eval/a/mean@1"] == pytest.approx(1)


benchmarks = st.dictionaries(
    st.sampled_from("abc"),
    st.lists(st.lists(st.booleans(), min_size=2, max_size=2), min_size=1, max_size=5),
    min_size=1,
)


@given(benchmarks, st.randoms())
def test_the_order_of_answers_decides_nothing(found, random):
    """Prompts are finished in any order, the samples of one together."""
    asked = [(name, f"{name}{place}", "1") for name, groups in found.items() for place in range(len(groups))]
    groups = [
        [answer(f"{name}{place}", float(right)) for right in group]
        for name, grades in found.items()
        for place, group in enumerate(grades)
    ]
    straight = metrics(loader(*asked), [sample for group in groups for sample in group], 2)
    random.shuffle(groups)
    assert metrics(loader(*asked), [sample for group in groups for sample in group], 2) == pytest.approx(straight)
    for name, grades in found.items():
        assert straight[f"eval/{name}/mean@2"] == pytest.approx(sum(map(sum, grades)) / (2 * len(grades)))
