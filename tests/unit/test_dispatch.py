"""Prompts over engines of unequal speed, in a clock of their own: which engine, when, and that no prompt is lost."""

import itertools
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.upstream import make_importable

make_importable()

from openrlhf.trainer.ppo_utils import samples_generator
from torchdata.stateful_dataloader import StatefulDataLoader

from rpg_openrlhf.sampling import dynamic_sampling
from rpg_openrlhf.sampling import generator as rollouts
from rpg_openrlhf.sampling.generator import RPGSamplesGenerator

SAMPLES = 2


class Answer(SimpleNamespace):
    """What an engine will say, and when."""

    __hash__ = object.__hash__


class Clock:
    """Ray, as the generators use it: waiting moves the time to the next answer."""

    def __init__(self):
        self.now = 0.0

    def put(self, value):
        return value

    def get(self, refs):
        return [self.get(ref) for ref in refs] if isinstance(refs, list) else getattr(refs, "value", refs)

    def wait(self, refs, num_returns, timeout):
        first = min(refs, key=lambda answer: answer.at)
        self.now = max(self.now, first.at)
        return [first], [ref for ref in refs if ref is not first]


class Engine:
    """Answers a request `seconds` after it came, `slots` at a time; the group's reward is of its number alone."""

    def __init__(self, clock: Clock, seconds: float, slots: int, passes):
        self.clock, self.seconds, self.passes = clock, seconds, passes
        self.free, self.asked = [0.0] * slots, []
        for name in ("generate_responses", "get_num_unfinished_requests", "hold_tokenizer", "abandon"):
            setattr(self, name, SimpleNamespace(remote=getattr(self, f"_{name}")))

    def _hold_tokenizer(self, tokenizer):
        return tokenizer

    def _get_num_unfinished_requests(self):
        return SAMPLES * sum(answer.at > self.clock.now for answer in self.asked)

    def _generate_responses(self, *, prompt, draw, **_):
        slot = self.free.index(min(self.free))
        self.free[slot] = at = max(self.free[slot], self.clock.now) + self.seconds
        rewards = [1.0, 0.0] if draw.startswith("eval") or self.passes(int(draw)) else [1.0, 1.0]
        group = [{"prompt": prompt, "draw": draw, "reward": reward} for reward in rewards]
        self.asked.append(Answer(at=at, value=group, draw=draw, since=self.clock.now))
        return self.asked[-1]

    def _abandon(self, draws):
        for answer in self.asked:
            if answer.draw in draws and answer.at > self.clock.now:
                answer.at, answer.value = self.clock.now, None
        self.free = [min(at, self.clock.now) for at in self.free]


class Prompts(list):
    def collate_fn(self, rows):
        return ["source"], [f"prompt {row}" for row in rows], ["label"], [None]


class Generator(RPGSamplesGenerator):
    """Ours, with samples that say where they come from."""

    def _process_response_into_experience(self, response, **_):
        return SimpleNamespace(**response, scores=[torch.tensor(response["reward"])])


@pytest.fixture(scope="module")
def make():
    patch = pytest.MonkeyPatch()

    def build(seconds, slots=2, prompts=20, batch=4, episodes=2, filtering=True, passes=lambda draw: True, held=0):
        clock = Clock()
        patch.setattr(rollouts, "ray", clock)
        patch.setattr(dynamic_sampling, "ray", clock)
        patch.setattr(samples_generator, "ray", clock)
        patch.setattr(samples_generator, "tqdm", lambda *_, **__: SimpleNamespace(update=int, set_postfix=id))
        patch.setattr(dynamic_sampling, "tqdm", lambda **__: nullcontext(SimpleNamespace(update=int)))

        def loader(data, size, pin, shuffle, collate, sampler=None, num_workers=0):
            return StatefulDataLoader(data, batch_size=size, sampler=sampler, collate_fn=collate)

        args = SimpleNamespace(
            train=SimpleNamespace(seed=1, num_episodes=episodes), data=SimpleNamespace(dataloader_num_workers=0),
            rollout=SimpleNamespace(batch_size=batch, n_samples_per_prompt=SAMPLES, vllm_generate_batch_size=batch),
            vllm=SimpleNamespace(enable_sleep=False),
            algo=SimpleNamespace(
                dynamic_filtering_enable=filtering, dynamic_filtering_range=(0, 1), dynamic_filtering_max_draws=0,
                advantage=SimpleNamespace(is_correction_level="off"),
            ),
        )  # fmt: skip
        told = []
        strategy = SimpleNamespace(args=args, setup_dataloader=loader, progress=SimpleNamespace(put=told.append))
        engines = [Engine(clock, each, slots, passes) for each in seconds]
        training, held_out = (SimpleNamespace(dataset=Prompts(range(size))) for size in (prompts, held))
        evaluation = loader(held_out.dataset, 1, False, False, held_out.dataset.collate_fn) if held else None
        made = Generator(strategy, training, evaluation, "tokenizer", engines)
        made.clock, made.engines, made.told = clock, engines, told
        return made

    yield build
    patch.undo()


def run(made) -> list[list]:
    """The rollouts of a whole run, as upstream's fit() asks for them."""
    found = []
    for _ in range(made.args.train.num_episodes):
        exhausted = False
        while not exhausted:
            samples, *_, exhausted = made.generate_samples()
            found += [samples] if samples else []
    return found


@given(
    seconds=st.lists(st.floats(0.1, 10), min_size=1, max_size=3),
    passed=st.sets(st.integers(1, 60)),
    prompts=st.integers(1, 20),
    batch=st.integers(1, 6),
    episodes=st.integers(1, 3),
)
def test_no_accepted_group_is_lost_and_speed_decides_nothing(make, seconds, passed, prompts, batch, episodes):
    made = make(seconds, prompts=prompts, batch=batch, episodes=episodes, passes=passed.__contains__)
    found = run(made)
    assert {len(samples) for samples in found} <= {batch * SAMPLES}, "none is partial"
    trained = [sample.draw for samples in found for sample in samples]
    left = [sample.draw for sample in made._sample_buffer]
    assert made.draws == prompts * episodes, "each prompt once an episode"
    accepted = [str(draw) for draw in range(1, made.draws + 1) if draw in passed]
    assert sorted(trained + left, key=int) == [draw for draw in accepted for _ in range(SAMPLES)]
    assert len(left) < batch * SAMPLES
    again = run(make([1.0], prompts=prompts, batch=batch, episodes=episodes, passes=passed.__contains__))
    assert [sorted(s.draw for s in samples) for samples in again] == [sorted(s.draw for s in r) for r in found]


def test_what_is_left_is_told(make):
    made = make([1.0], prompts=7, batch=4, episodes=2)
    assert len(run(made)) == 3
    assert [note["kind"] for note in made.told] == ["note"] * 2
    assert "episode 1 ended with 3 of a rollout's 4 prompts" in made.told[0]["text"]
    assert "the run ended with 2 prompts, too few for a rollout of 4: not trained on" in made.told[1]["text"]


def test_a_rejected_group_is_replaced_at_once_where_there_is_least_to_do(make):
    """The fast engine answers ten times while the slow one answers once; nobody waits for the slow one."""
    made = make([1.0, 10.0], prompts=100, batch=8, passes=lambda draw: draw % 4 == 0)
    made.generate_samples()
    fast, slow = made.engines
    everything = sorted(fast.asked + slow.asked, key=lambda answer: int(answer.draw))
    ends = sorted(answer.at for answer in everything)
    for answer in everything[8:]:
        assert answer.since in ends, "dispatched when another had come back"
    under_way = [sum(a.since <= t < a.at for a in everything) for t in (0.0, *ends[:4])]
    assert under_way == [8] * 5, "one for one, while all are rejected"
    assert len(fast.asked) > 3 * len(slow.asked)


def test_groups_drawn_ahead_fill_the_engines_and_go_back(make):
    """Half of the draws pass. One for one takes a turn for each halving; drawn ahead, the second turn has enough."""
    settings = {"slots": 16, "prompts": 400, "batch": 16, "passes": lambda draw: draw % 8 < 4, "episodes": 1}
    made = make([1.0], **settings)
    taken = [(*made.generate_samples(), made.given_back) for _ in range(3)]
    trained = [sample.draw for samples, *_ in taken for sample in samples[::SAMPLES]]
    assert trained == [str(draw) for draw in range(1, made.draws + 1) if draw % 8 < 4][:48]
    assert (made.position, made.draws) == (sum(drawn for _, _, drawn, *_ in taken), int(trained[-1]))
    assert made.clock.now <= 3 * 3, "turns of three rollouts; one for one takes five or more each"
    given_back = [count for *_, count in taken]
    assert 0 < sum(given_back) == len(made.engines[0].asked) - made.draws, "asked for, and asked for again"


def test_the_pass_rate_is_a_share_of_prompts(make):
    made = make([1.0], prompts=100, batch=8, passes=lambda draw: draw % 4 == 0)
    _, rate, drawn, _ = made.generate_samples()
    assert (rate, drawn) == (100 * 8 / 32, 32)


def test_an_evaluation_has_no_barriers(make):
    """Twelve prompts on four slots take three turns, however small the training batch is."""
    made = make([1.0, 1.0], batch=3, held=12)
    samples = made.generate_eval_samples(n_samples_per_prompt=SAMPLES)
    assert [sample.draw for sample in samples[::SAMPLES]] == [f"eval {i}" for i in range(1, 13)]
    assert made.clock.now == 3.0
    started = sorted(itertools.chain(*(engine.asked for engine in made.engines)), key=lambda answer: answer.at)
    assert {answer.since for answer in started} == {0.0}
