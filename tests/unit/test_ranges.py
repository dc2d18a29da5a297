"""Every numeric flag of the parser has a range, which both a run and its dry run hold it to."""

import math
import re

import pytest

from rpg_openrlhf.settings import parser as flags
from rpg_openrlhf.settings import ranges
from rpg_openrlhf.settings.run_settings import Settings, nested

ACTIONS = flags.by_flag(flags.build_parser())
NUMERIC = sorted(name for name, action in ACTIONS.items() if action.type in (int, float))

MAY_BE_NEGATIVE = ("algo.dynamic_filtering_range", "reward.clip_range", "reward.stop_properly_penalty_coef")


def values_with(name, value) -> Settings:
    defaults = {key: action.default for key, action in ACTIONS.items()}
    return nested(defaults | {name: value})


def test_every_numeric_flag_has_a_range():
    assert sorted(ranges.RANGES) == NUMERIC


def test_defaults_are_in_range():
    assert ranges.out_of_range(values_with("vllm.num_engines", 1)) is None


@pytest.mark.parametrize("name", NUMERIC)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, -1e9])
def test_numbers_that_no_run_can_use(name, bad):
    action = ACTIONS[name]
    if (name in MAY_BE_NEGATIVE and bad == -1e9) or (name == "ckpt.max_mem" and bad == math.inf):
        return
    value = [bad] * action.nargs if isinstance(action.nargs, int) else [bad] if action.nargs else bad
    assert re.search(rf"^--{name} .*: must be ", ranges.out_of_range(values_with(name, value)))


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("actor.lr_scheduler", "cosin", "must be one of linear, cosine"),
        ("critic.lr_scheduler", "warmup_stable_decay", "cannot be used, as it needs a number of decay steps"),
        ("actor.lr_warmup_ratio", 2.0, "must be between 0 and 1"),
        ("actor.lr_warmup_ratio", -1.0, "must be between 0 and 1"),
        ("actor.adam.betas", (0.9, 1.5), "0.9 1.5: must be at least 0 and below 1"),
        ("actor.adam.eps", 0.0, "must be above 0"),
        ("actor.max_norm", -1.0, "must be at least 0"),
        ("reward.stop_properly_penalty_coef", 3.0, "must be at most 1"),
        ("eval.steps", 0, "must be at least 1, or -1"),
    ],
)
def test_messages(name, value, says):
    assert says in ranges.out_of_range(values_with(name, value))


def test_schedulers_are_those_of_the_library():
    from transformers import SchedulerType

    assert list(ranges.SCHEDULERS) == [scheduler.value for scheduler in SchedulerType]
