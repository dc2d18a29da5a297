"""Rollouts drawn ahead of training: how far, by which weights, what a checkpoint holds, and how it ends."""

import threading
import time
from types import SimpleNamespace as Namespace

import pytest

from tests.upstream import make_importable

make_importable()

from rpg_openrlhf.sampling import asynchronous
from rpg_openrlhf.sampling.asynchronous import AsynchronousGenerator, Turns
from rpg_openrlhf.sampling.generator import RPGSamplesGenerator

PATIENCE = 20.0
PLENTY = 100


class Drawn:
    """What is drawn, in place of engines: rollouts by number, `per_episode` of them in an episode."""

    def __init__(self, monkeypatch, per_episode=3, fails_at=None):
        self.drawing = threading.Event()
        self.asked: list[int] = []
        self.per_episode, self.fails_at = per_episode, fails_at
        self.gate: threading.Semaphore | None = None
        self.generators: list[AsynchronousGenerator] = []
        monkeypatch.setattr(RPGSamplesGenerator, "_next_rollout", self.generate)

    def generate(self, *_, **kwargs):
        made = self.made
        self.drawing.set()
        if self.gate:
            assert self.gate.acquire(timeout=PATIENCE)
        made.draws += 1
        self.asked.append(made.draws)
        if made.draws == self.fails_at:
            raise ValueError("no reward")
        made.position += 1
        if made.position == self.per_episode:
            made.episode, made.position = made.episode + 1, 0
            return [f"rollout {made.draws}"], None, 1, True
        return [f"rollout {made.draws}"], None, 1, False

    def generator(self, queue_size=1, episodes=2, left=None, partial=False) -> AsynchronousGenerator:
        self.made = made = object.__new__(AsynchronousGenerator)
        made.args = Namespace(
            train=Namespace(async_queue_size=queue_size, num_episodes=episodes, partial_rollout_enable=partial),
            algo=Namespace(dynamic_filtering_enable=False),
        )
        made.turns, made.version = Turns(), 0
        made._room, made._ready = threading.Semaphore(queue_size), asynchronous.queue.SimpleQueue()
        made._thread = made._taken = made.before_the_next = None
        made._waited, made._ages, made.ended, made.rollouts_left = 0.0, [], False, left
        made.episode = made.position = made.draws = 0
        made._sample_buffer = []
        self.generators.append(made)
        return made

    def end(self) -> None:
        """No thread is left: it would draw, and count, in the next test."""
        for made in self.generators:
            made.episode = made.args.train.num_episodes = 0
            made._room.release(PLENTY)
            if self.gate:
                self.gate.release(PLENTY)
            if made._thread:
                made._thread.join(PATIENCE)
                assert not made._thread.is_alive()


def wait_until(condition) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def drawn(monkeypatch):
    made = Drawn(monkeypatch)
    yield made
    made.end()


@pytest.mark.parametrize("size", [1, 3])
def test_no_more_rollouts_than_the_queue_holds_are_ahead(drawn, size):
    made = drawn.generator(size)
    made.generate_samples()
    wait_until(lambda: len(drawn.asked) == 1 + size)
    time.sleep(0.1)
    assert len(drawn.asked) == 1 + size, "one in training, and the queue"


def test_every_rollout_comes_once_and_in_order(drawn):
    made = drawn.generator(2)
    found = [made.generate_samples() for _ in range(6)]
    assert [samples for samples, *_ in found] == [[f"rollout {number}"] for number in range(1, 7)]
    assert [exhausted for *_, exhausted in found] == [False, False, True] * 2
    made._thread.join(PATIENCE)
    assert not made._thread.is_alive(), "two episodes are all"


def test_weights_wait_for_the_rollout_under_way_and_go_before_the_next(drawn):
    drawn.gate = threading.Semaphore(1)
    made = drawn.generator(2)
    made.generate_samples()
    assert made._ages == [(0, 0)]
    sent = []

    def send():
        with made.sending():
            sent.append(len(drawn.asked))

    sender = threading.Thread(target=send)
    sender.start()
    wait_until(lambda: made.turns._urgent)
    drawn.gate.release()  # the second rollout ends; the third must wait although there is room
    sender.join(PATIENCE)
    assert sent == [2]
    drawn.gate.release()
    wait_until(lambda: len(drawn.asked) == 3)
    made.generate_samples()
    assert (made._taken.version, made.version, made._ages) == (0, 1, [(1, 1)])
    made.generate_samples()
    assert made._ages == [(0, 0)], "drawn after the weights were sent"
    assert made.rollout_metrics()["async/staleness"] == 0


def test_counts_are_those_of_the_rollout_in_training(drawn, monkeypatch):
    """The thread has drawn on, and counted, by then."""
    made = drawn.generator(3)
    made.generate_samples()
    wait_until(lambda: len(drawn.asked) == 4)
    made.carried_prompts = made.given_back = 99
    assert made.rollout_metrics()["rollout/carried_prompts"] == 0


def test_with_a_queue_of_none_nothing_is_drawn_ahead(drawn):
    made = drawn.generator(0)
    made.generate_samples()
    time.sleep(0.1)
    assert drawn.asked == [1]
    made.generate_samples()
    assert drawn.asked == [1, 2]


def test_partial_rollouts_pause_the_engines_and_no_rollout(drawn, monkeypatch):
    asked = []
    monkeypatch.setattr(asynchronous, "batch_vllm_engine_call", lambda engines, name: asked.append(name))
    drawn.gate = threading.Semaphore(0)
    made = drawn.generator(partial=True)
    made.vllm_engines = []
    drawing = threading.Thread(target=made.generate_samples)
    drawing.start()
    assert drawn.drawing.wait(PATIENCE)
    with made.sending():
        assert asked == ["pause_generation"]
    assert asked == ["pause_generation", "resume_generation"]
    assert (made.version, drawn.asked) == (1, [])
    drawn.gate.release(10)
    drawing.join(PATIENCE)


def test_ages_are_of_each_reply(drawn):
    made = drawn.generator()
    made.version = 3
    made._taken = made
    made._ages = [(2, 2), (2, 1), (1, 1), (1, 1)]
    made.waited, made.counts = 0.0, (0, 0)
    told = made.rollout_metrics()
    assert told["async/staleness"] == 1.5
    assert told["async/staleness_max"] == 2
    assert told["async/of_several_policies"] == 0.25
    made._taken = None


def test_a_checkpoint_holds_the_place_of_what_was_trained_on(drawn):
    made = drawn.generator(3)
    made.generate_samples()
    wait_until(lambda: len(drawn.asked) == 4)
    assert made.state_dict()["draws"] == 1
    again = drawn.generator(3)
    again.load_state_dict(made.state_dict())
    assert again.generate_samples()[0] == ["rollout 2"], "drawn again"


def test_a_run_of_so_many_rollouts_draws_no_more(drawn):
    made = drawn.generator(3, left=2)
    made.generate_samples()
    made.generate_samples()
    made._thread.join(PATIENCE)
    assert drawn.asked == [1, 2]
    made.ended = True
    assert made.generate_samples() == ([], None, 0, True)


def test_an_error_of_the_thread_ends_the_training(monkeypatch):
    failing = Drawn(monkeypatch, fails_at=2)
    made = failing.generator(2)
    made.generate_samples()
    with pytest.raises(ValueError, match="no reward"):
        made.generate_samples()
    failing.end()


def test_an_evaluation_is_between_two_rollouts(drawn, monkeypatch):
    drawn.gate = threading.Semaphore(0)
    made = drawn.generator()
    seen = []
    monkeypatch.setattr(RPGSamplesGenerator, "generate_eval_samples", lambda *_, **__: seen.append(len(drawn.asked)))
    first = threading.Thread(target=made.generate_samples)
    first.start()
    assert drawn.drawing.wait(PATIENCE)
    evaluation = threading.Thread(target=made.generate_eval_samples)
    evaluation.start()
    time.sleep(0.1)
    assert seen == []
    drawn.gate.release(10)
    evaluation.join(PATIENCE)
    assert len(seen) == 1
