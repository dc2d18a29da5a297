"""A reward function that does not keep its contract is named, with what it returned and for how many samples."""

import asyncio
from types import SimpleNamespace

import pytest
import torch

from tests.upstream import make_importable

make_importable()

from openrlhf.trainer.ppo_utils.experience import Experience

from rpg_openrlhf.errors import NotFinite
from rpg_openrlhf.sampling.reward_check import CheckedRewards, RewardError, check_logs, check_result
from rpg_openrlhf.training.measured_once import check_finite
from rpg_openrlhf.weight_sync import sender

ONE = torch.tensor([1.0])


@pytest.mark.parametrize("rewards", [1, 1.0, True, ONE, [1.0], [[0.5]], torch.tensor(2.0)])
def test_good_results(rewards):
    check_result({"rewards": rewards})
    check_result({"rewards": rewards, "scores": ONE, "extra_logs": {"a": ONE, "b": 0.5}})


@pytest.mark.parametrize(
    ("result", "says"),
    [
        (None, 'must return a dict with "rewards", not NoneType'),
        ("good", 'must return a dict with "rewards", not str'),
        ({}, 'returned no "rewards"'),
        ({"rewards": None}, 'returned no "rewards"'),
        ({"rewards": "1"}, '"rewards" must be one number for each sample, not str'),
        ({"rewards": torch.ones(2)}, r'"rewards" must be one number for each sample, not Tensor of shape \(2,\)'),
        ({"rewards": [1.0, 2.0]}, '"rewards" must be one number for each sample, not list'),
        ({"rewards": float("nan")}, '"rewards" is nan'),
        ({"rewards": torch.tensor([-torch.inf])}, '"rewards" is -inf'),
        ({"rewards": 1, "scores": "x"}, '"scores" must be one number for each sample, not str'),
        ({"rewards": 1, "extra_logs": [1]}, '"extra_logs" must be a dict of numbers, not list'),
        ({"rewards": 1, "extra_logs": {"a": "b"}}, "\"extra_logs\" 'a' must be one number for each sample, not str"),
        ({"rewards": 1, "extra_logs": {"a": float("inf")}}, "\"extra_logs\" 'a' is inf"),
    ],
)
def test_bad_results(result, says):
    with pytest.raises((ValueError, NotFinite), match=says):
        check_result(result)


def test_a_fault_is_kept_though_upstream_swallows_it():
    async def fetch(queries, prompts, labels):
        if queries[0] == "bad":
            raise KeyError("judge")
        return [{"rewards": 1.0}]

    rewards = CheckedRewards(fetch, "--reward.remote_url f.py (reward_func)")
    for query in ("good", "bad", "bad"):
        try:
            asyncio.run(rewards([query], ["p"], ["l"]))
        except KeyError:
            continue
    with pytest.raises(RewardError, match=r"f.py \(reward_func\): raised KeyError: 'judge' \(2 of 3 samples so far\)"):
        rewards.raise_fault()


def test_extra_logs_of_some_samples_only():
    samples = [SimpleNamespace(info={"reward": ONE} | ({"fmt": ONE} if number < 3 else {})) for number in range(8)]
    with pytest.raises(RewardError, match="'fmt' is given for 3 of 8 samples"):
        check_logs(samples, "--reward.remote_url f.py")
    check_logs(samples[:3], "--reward.remote_url f.py")


def test_what_upstream_notes_is_no_extra_log():
    """Groups that travel as columns stand beside upstream's own samples: an image's, or a reward in NumPy's type."""
    noted = {"reward": ONE, "score": ONE, "response_clip_ratio": ONE, "fmt": ONE}
    check_logs([SimpleNamespace(info=noted), SimpleNamespace(info={"fmt": ONE})], "--reward.remote_url f.py")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("advantages", "policy_loss is nan: the advantages are not finite"),
        ("base_action_log_probs", "policy_loss is nan: the reference's log-probs are not finite"),
        (None, "policy_loss is nan: the policy's own log-probs or gradient is not finite"),
    ],
)
def test_a_loss_that_is_not_finite_names_what_made_it_so(name, says):
    mask = torch.tensor([[True, True, False]])
    values = {key: torch.zeros(1, 3) for key in ("advantages", "action_log_probs", "base_action_log_probs")}
    for tensor in values.values():
        tensor[0, 2] = torch.nan  # masked: no cause
    if name:
        values[name][0, 1] = torch.inf
    with pytest.raises(NotFinite, match=says):
        check_finite({"policy_loss": float("nan")}, Experience(action_mask=mask, **values))


def test_finite_steps_pass():
    check_finite({"policy_loss": 0.5, "actor_grad_norm": 2.0, "entropy_loss": float("nan")}, None)


def test_a_weight_that_is_not_finite_is_named():
    good, bad = torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.tensor([1.0, torch.nan]))
    sender.check_finite(["a", "b"], [good, good])
    for dtype in (torch.float32, torch.bfloat16):
        weights = [torch.nn.Parameter(weight.data.to(dtype)) for weight in (good, bad)]
        with pytest.raises(NotFinite, match="weight b of the policy is not finite"):
            sender.check_finite(["a", "b"], weights)
