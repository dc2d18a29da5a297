"""A rollout's numbers when ranks exchange them once: what they are when each is exchanged at every micro-batch."""

from types import SimpleNamespace as Namespace

import pytest
import torch

from tests.upstream import make_importable

make_importable()

from openrlhf.trainer.ray.ppo_actor import ActorPPOTrainer

from rpg_openrlhf.training.measured_once import MeasuredOnce, means_of


class Strategy:
    """One of two ranks: what the other gave at the same call is known from a run before."""

    def __init__(self, others: list):
        self.others, self.given, self.world_size = others, [], 2
        self.ring_attn_group, self.accumulated_gradient = None, 1
        self.is_rank_0 = lambda: False

    def all_reduce(self, data, op="mean"):
        other = self.others[len(self.given)] if self.others else data
        self.given.append(data.clone() if isinstance(data, torch.Tensor) else dict(data))
        if isinstance(data, dict):
            return {name: (value + other[name]) / 2 for name, value in data.items()}
        assert op == "sum"
        return data + other


class Steps(ActorPPOTrainer):
    """Upstream's ppo_train over micro-batches whose numbers are given."""

    def __init__(self, statuses: list[dict], strategy: Strategy):
        self.statuses, self.strategy, self.dataloader_pin_memory = statuses, strategy, False
        self.args = Namespace(train=Namespace(dynamic_batch_enable=False), ds=Namespace(tensor_parallel_size=1))
        self.max_epochs = 1

        class Items(list):
            sample_batch_size = 1
            collate_fn = staticmethod(lambda items: Namespace(to_device=id, action_mask=torch.ones(1, 1)))

        self.replay_buffer = Items(range(len(statuses)))

    def training_step(self, experience, kl_ctl, step, loss_batch_info=None):
        status = self.statuses[step]
        return {**status, "metrics": dict(status["metrics"])}


class Once(MeasuredOnce, Steps):
    """The same, ours."""


def numbers(seed: int, steps: int = 3) -> list[dict]:
    random = torch.Generator().manual_seed(seed)
    drawn = torch.rand(steps, 9, generator=random).tolist()
    weights = {"policy_loss": "token", "reward": "sample", "clip": "token", "actor_lr": None, "actor_grad_norm": None}
    return [
        {
            "metrics": {
                "policy_loss": torch.tensor(a), "reward": torch.tensor([b, c]), "clip": d,
                "actor_lr": 0.5, "actor_grad_norm": e,
            },
            "weights": weights,
            "num_samples": 2.0,
            "num_action_tokens": float(int(50 * f) + 1),
        }
        for a, b, c, d, e, f, *_ in drawn
    ]  # fmt: skip


def both_ranks(kind) -> tuple[list[dict], int]:
    """Each rank's status, and how often a rank waited for the other."""
    first = [Strategy([]) for _ in range(2)]
    for seed, strategy in enumerate(first):
        kind(numbers(seed), strategy).ppo_train(0.0)
    second = [Strategy(first[1 - rank].given) for rank in range(2)]
    statuses = [kind(numbers(seed), strategy).ppo_train(0.0) for seed, strategy in enumerate(second)]
    return statuses, len(second[0].given)


def test_two_ranks_report_what_upstream_reports():
    (expected, other), upstream_waits = both_ranks(Steps)
    (found, again), waits = both_ranks(Once)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-6), name
        assert again[name] == pytest.approx(other[name], rel=1e-6), name
    assert found["policy_loss"] == again["policy_loss"]
    assert (upstream_waits, waits) == (3, 1), "dictionaries of numbers, each of which is a collective there"


def test_one_rank_waits_for_nobody():
    alone = Strategy([])
    alone.world_size = 1
    found = Once(numbers(0), alone).ppo_train(0.0)
    assert alone.given == []
    expected = Steps(numbers(0), Strategy([])).ppo_train(0.0)
    assert found == pytest.approx(expected, rel=1e-6)


def test_the_strategy_is_back_after_an_error():
    trainer = Once(numbers(0), strategy := Strategy([]))
    trainer.training_step = None
    with pytest.raises(TypeError):
        trainer.ppo_train(0.0)
    assert trainer.strategy is strategy


def test_numbers_of_several_devices_are_read_device_by_device(monkeypatch):
    """Reward models, critics and agents report from the CPU, the loss from the GPU: torch stacks no mixture."""
    stacked = []
    stack = torch.stack

    def same_device(tensors):
        assert len({tensor.device for tensor in tensors}) == 1
        stacked.append(len(tensors))
        return stack([torch.zeros(()) if tensor.is_meta else tensor for tensor in tensors])

    monkeypatch.setattr(torch, "stack", same_device)
    means = means_of({"a": torch.tensor([1.0, 3.0]), "b": torch.empty(2, device="meta"), "c": torch.tensor(4)})
    assert means == {"a": 2.0, "b": 0.0, "c": 4.0}
    assert list(means) == ["a", "b", "c"]
    assert sorted(stacked) == [1, 2]
