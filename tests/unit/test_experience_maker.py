"""The reference as upstream's experience maker sees it, and the KL measured on its experiences."""

import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.upstream import make_importable

make_importable()

from openrlhf.trainer.ppo_utils.experience_maker import RemoteExperienceMaker

from rpg_openrlhf.training.experience import PolicyAsReference, RPGExperienceMaker, mean_kl_to_reference


class Group:
    """A RayActorGroup that returns what it was asked."""

    def async_run_method_batch(self, method_name, **kwargs):
        return method_name, kwargs

    def async_run_method(self, method_name, *args, **kwargs):
        return method_name, args, kwargs


def test_reference_is_asked_of_the_policys_actors():
    reference = PolicyAsReference(Group())
    assert reference.async_run_method_batch(method_name="forward", sequences=[1]) == (
        "reference_forward",
        {"sequences": [1]},
    )
    assert reference.async_run_method(method_name="empty_cache") == ("empty_cache", (), {})


def made(old, ref, mask):
    return SimpleNamespace(
        action_log_probs=torch.tensor([old]),
        base_action_log_probs=torch.tensor([ref]),
        action_mask=torch.tensor([mask]),
    )


def test_kl_is_a_mean_over_tokens_not_over_micro_batches():
    """k3 of the samples' own policy: e^-l - 1 + l with l = log π_old - log π_ref, over valid tokens alone."""
    batches = [made([-1.0, -2.0, -3.0], [-1.5, -2.0, -9.0], [1, 1, 0]), made([-1.0], [-0.5], [1])]
    k3 = [math.expm1(-ratio) + ratio for ratio in (0.5, 0.0, -0.5)]
    assert mean_kl_to_reference(batches) == pytest.approx(sum(k3) / 3, rel=1e-6)


def test_kl_of_equal_log_probs_is_exactly_zero():
    log_probs = torch.randn(4, 7, generator=torch.Generator().manual_seed(0)).tolist()
    assert mean_kl_to_reference([made(row, row, [1] * 7) for row in log_probs]) == 0
    assert mean_kl_to_reference([made([-1.0], [-5.0], [0])]) == 0, "without a token"


@given(st.data())
def test_returns_without_a_loop_equal_upstreams(data):
    """A response has one reward, at its end, which every token before it returns."""
    rows, tokens = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 40))
    ends = torch.tensor(data.draw(st.lists(st.integers(0, tokens - 1), min_size=rows, max_size=rows)))
    values = torch.tensor(data.draw(st.lists(st.floats(-9, 9, width=32), min_size=rows, max_size=rows)))
    rewards = torch.zeros(rows, tokens).scatter_(1, ends[:, None], values[:, None])
    mask = (torch.arange(tokens) <= ends[:, None]).long()
    maker = object.__new__(RPGExperienceMaker)
    maker.kl_ctl = SimpleNamespace(value=0.0)
    for gamma in (1.0, 0.9):
        expected = RemoteExperienceMaker.get_cumulative_returns(maker, rewards, mask, gamma)
        assert torch.equal(maker.get_cumulative_returns(rewards, mask, gamma), expected)
