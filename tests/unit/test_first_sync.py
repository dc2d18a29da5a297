"""The sync of unchanged weights before the first rollout."""

from types import SimpleNamespace as Namespace

import pytest

from tests.upstream import make_importable

make_importable()

from rpg_openrlhf.training import first_sync


class Engine:
    """Answers with its weights, and can be put to sleep."""

    def __init__(self, weights=1):
        self.weights, self.asked = weights, []
        self.generate = self.wake_up = self.sleep = None
        for name in ("generate", "wake_up", "sleep"):
            setattr(self, name, Namespace(remote=lambda *args, name=name: self.do(name, *args)))

    def do(self, name, *args):
        self.asked.append(name)
        if name == "generate":
            assert args[1].temperature == 0
            return Namespace(outputs=[Namespace(token_ids=[self.weights])])
        return None


def trainer(engines, broadcast, sleeps) -> Namespace:
    return Namespace(
        vllm_engines=engines,
        broadcast_to_vllm=broadcast,
        tokenizer=Namespace(encode=lambda text, **_: [1, 2], eos_token_id=0),
        args=Namespace(
            vllm=Namespace(enable_sleep=sleeps, sync_backend="gloo"),
            train=Namespace(colocate_all=False),
            ds=Namespace(load_in_4bit=False),
        ),
    )


@pytest.fixture(autouse=True)
def _local(monkeypatch):
    monkeypatch.setattr(first_sync.ray, "get", lambda calls: calls)
    monkeypatch.setattr(
        first_sync, "batch_vllm_engine_call", lambda engines, name: [getattr(e, name).remote() for e in engines]
    )


@pytest.mark.parametrize("sleeps", [False, True])
def test_engines_answer_as_before(sleeps):
    engines = [Engine(), Engine(2)]
    first_sync.check(trainer(engines, lambda: engines[0].asked.append("sync"), sleeps))
    once = ["wake_up", "generate", "sleep"] if sleeps else ["generate"]
    assert engines[0].asked == [*once, "sync", *once]


def test_a_transport_that_garbles_weights_is_named():
    engines = [Engine(), Engine()]

    def broadcast():
        engines[1].weights = 7

    says = r"greedy answer of engine 1 \(1 of 2\): --vllm.sync_backend gloo corrupts weights"
    with pytest.raises(first_sync.WrongSync, match=says):
        first_sync.check(trainer(engines, broadcast, False))


def test_beside_a_4_bit_base_model_the_second_sync_is_of_unchanged_weights():
    """The first brings what the 4 bits stand for."""
    engine = Engine()

    def broadcast():
        engine.weights = 2

    beside = trainer([engine], broadcast, sleeps=False)
    beside.args.ds.load_in_4bit = True
    first_sync.check(beside)
    assert engine.weights == 2
