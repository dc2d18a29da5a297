"""What the model actors bind that needs no Ray to be seen."""

import contextlib
import socket
from types import SimpleNamespace

import pytest

from tests.upstream import make_importable

make_importable()

from openrlhf.trainer.ray import ppo_critic

from rpg_openrlhf.training import actors as actor_module
from rpg_openrlhf.training.actors import RPGPolicyActor, RPGReferenceActor, StablePort


def test_rendezvous_port_is_free_and_not_ephemeral():
    port = RPGPolicyActor._get_free_port()
    assert 20_000 <= port < 32_768
    with socket.create_server(("127.0.0.1", port)):
        assert all(StablePort._get_free_port() != port for _ in range(50))


def test_both_models_take_their_port_from_it():
    assert RPGReferenceActor._get_free_port is RPGPolicyActor._get_free_port is StablePort._get_free_port


class Weights:
    """A reference's weights that only notes what is done with them."""

    def __init__(self):
        self.events = []

    @contextlib.contextmanager
    def in_place(self):
        self.events.append("in")
        try:
            yield
        finally:
            self.events.append("out")

    def refresh(self, mix):
        self.events.append(mix)


def policy(forward) -> RPGPolicyActor:
    """One without a model."""
    actor = object.__new__(RPGPolicyActor)
    actor.strategy, actor.reference, actor.forward = SimpleNamespace(is_rank_0=lambda: False), Weights(), forward
    return actor


def test_reference_is_the_policys_forward_with_other_weights():
    """Put in place once a rollout, not once a micro-batch."""
    asked = []
    actor = policy(lambda **kwargs: asked.append((kwargs, list(actor.reference.events))) or len(asked))
    batch = {"sequences": ["a", "b", "c"], "action_mask": [1, 2, 3]}
    assert actor.execute_batch("reference_forward", batch, 0, 2) == [1, 2]
    assert actor.reference.events == ["in", "out"]
    assert asked == [({"sequences": s, "action_mask": m}, ["in"]) for s, m in (("a", 1), ("b", 2))]
    assert actor.execute_batch("forward", batch, 2, 3) == [3]
    assert actor.reference.events == ["in", "out"], "the policy itself is asked without"


def test_policy_is_back_after_an_error():
    def fail(**kwargs):
        raise InterruptedError

    actor = policy(fail)
    with pytest.raises(InterruptedError):
        actor.execute_batch("reference_forward", {"sequences": ["a"]}, 0, 1)
    assert actor.reference.events == ["in", "out"]


def test_refresh_moves_the_weights_and_leaves_the_optimizer_unless_asked(monkeypatch):
    cleared = []
    monkeypatch.setattr(actor_module, "clear_moments", cleared.append)
    moved = policy(None)
    moved.actor = SimpleNamespace(model="engine")
    moved.refresh_reference(0.5, reset_optimizer=False)
    assert (moved.reference.events, cleared) == ([0.5], [])
    moved.refresh_reference(1.0, reset_optimizer=True)
    assert (moved.reference.events, cleared) == ([0.5, 1.0], ["engine"])


def test_a_critics_micro_batch_that_ends_no_step_is_no_boundary(monkeypatch):
    """Else ZeRO-1 and -2 keep the gradient of the last backward() alone."""
    boundaries = []
    monkeypatch.setattr(ppo_critic.CriticPPOTrainer, "training_step", lambda self, *words: words)
    trainer = object.__new__(actor_module.WholeStepCriticTrainer)
    trainer.args = SimpleNamespace(train=SimpleNamespace(dynamic_batch_enable=True))
    trainer.replay_buffer = SimpleNamespace(dynamic_optimizer_step=[0, 0, 1])
    trainer.critic = SimpleNamespace(set_gradient_accumulation_boundary=boundaries.append)
    assert [trainer.training_step("experience", step) for step in range(3)] == [
        ("experience", n, None) for n in range(3)
    ]
    assert boundaries == [False, False, True]


@pytest.mark.parametrize(("aggregation", "use_loss"), [("token-mean", True), ("seq-mean-token-mean", False)])
def test_token_means_are_logged_over_all_tokens_however_they_were_split(monkeypatch, aggregation, use_loss):
    """Upstream logs a micro-batch's share of the step's mean, and ppo_train then takes the mean of the shares."""
    shares = {"policy_loss": 0.25, "kl": 0.5, "entropy_loss": 1.0, "reward": 3.0}
    parent = actor_module.StepBoundaryTrainer.__mro__[1]
    answer = {"metrics": dict(shares), "num_action_tokens": 10.0}
    monkeypatch.setattr(parent, "training_step", lambda self, *words: answer)
    trainer = object.__new__(actor_module.StepBoundaryTrainer)
    trainer.actor = SimpleNamespace(model=SimpleNamespace(global_steps=0))
    trainer.args = SimpleNamespace(
        train=SimpleNamespace(dynamic_batch_enable=False),
        algo=SimpleNamespace(kl=SimpleNamespace(use_loss=use_loss)),
        actor=SimpleNamespace(loss_agg_mode=aggregation),
    )
    info = {"batch_num_tokens": 80.0, "dp_size": 2}
    metrics = trainer.training_step("experience", 0.0, 0, info)["metrics"]
    scaled = {"entropy_loss"} | ({"policy_loss", "kl"} if use_loss else set())
    assert metrics == {name: 4 * value if name in scaled else value for name, value in shares.items()}
