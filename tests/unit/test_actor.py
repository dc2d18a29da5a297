"""What the model actors bind that needs no Ray to be seen."""

import contextlib
import socket
from types import SimpleNamespace

import pytest

from tests.upstream import make_importable

make_importable()

from rpg_openrlhf.training import actors as actor_module
from rpg_openrlhf.training.actors import LastingPort, RPGPolicyActor, RPGReferenceActor


def test_rendezvous_port_is_free_and_not_ephemeral():
    port = RPGPolicyActor._get_free_port()
    assert 20_000 <= port < 32_768
    with socket.create_server(("127.0.0.1", port)):
        assert all(LastingPort._get_free_port() != port for _ in range(50))


def test_both_models_take_their_port_from_it():
    assert RPGReferenceActor._get_free_port is RPGPolicyActor._get_free_port is LastingPort._get_free_port


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
