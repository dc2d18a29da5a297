"""docs/logs.md: its table is one that runs can be held to; tests/integration does so."""

import pytest

from rpg_openrlhf.rewards.reward_func import reward_func
from rpg_openrlhf.runs.evaluation import scores
from tests.logged_keys import CONDITIONS, check, documented


def test_every_condition_is_a_known_one():
    assert frozenset.union(*documented().values()) == CONDITIONS


def test_the_graders_columns_are_documented():
    columns = set(reward_func(["?"], ["?"], ["1"])["extra_logs"])
    assert columns == {key for key, conditions in documented().items() if conditions == {"grader"}}


def keys_of(*holding: str) -> set[str]:
    names = {key for key, conditions in documented().items() if conditions <= set(holding)}
    return {name.replace("eval/*", "eval/aime24").replace("@*", "@4") for name in names} | {"kind", "step", "time"}


def test_a_run_is_held_to_it():
    whole = keys_of("RPG", "evaluation", "samples")
    assert set(scores(["aime24"], 4)) <= whole
    check(whole, "RPG", "evaluation", "samples")
    for spoilt in (whole | {"news"}, whole - {"reward"}, whole | {"critic_loss"}, whole - {"eval/aime24/pass@4"}):
        with pytest.raises(AssertionError, match=r"docs/logs\.md"):
            check(spoilt, "RPG", "evaluation", "samples")
