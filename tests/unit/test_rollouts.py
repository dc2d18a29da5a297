"""The order of prompts and the numbers of draws: the same from any place that a run goes on from."""

import asyncio
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.upstream import make_importable

make_importable()

from openrlhf.trainer.ppo_utils.samples_generator import SamplesGenerator
from openrlhf.trainer.ray.vllm_engine import RolloutRayActor
from torchdata.stateful_dataloader import StatefulDataLoader

from rpg_openrlhf.sampling import generator as rollouts
from rpg_openrlhf.sampling.engine_actor import RPGRolloutActor
from rpg_openrlhf.sampling.generator import NumberedEngine, PromptOrder, RPGSamplesGenerator
from rpg_openrlhf.training.trainer import in_order


@given(st.integers(1, 60), st.integers(0, 2**31), st.integers(0, 9), st.integers(0, 60))
def test_an_order_is_of_seed_and_episode_alone(size, seed, episode, position):
    order = PromptOrder(size, seed)
    order.begin(episode, 0)
    whole = list(order)
    assert sorted(whole) == list(range(size))
    torch.rand(3)  # what else the process draws decides nothing
    again = PromptOrder(size, seed)
    again.begin(episode, position)
    assert list(again) == whole[position:]
    assert len(again) == size


def test_episodes_and_seeds_differ():
    def first(seed, episode):
        order = PromptOrder(50, seed)
        order.begin(episode, 0)
        return tuple(order)

    assert len({first(seed, episode) for seed in range(4) for episode in range(4)}) == 16


class Prompts(list):
    def collate_fn(self, rows):
        return ["source"], [f"prompt {row}" for row in rows], ["label"], [None]


@pytest.fixture
def generator(monkeypatch):
    """Ten prompts, three a rollout, two samples each; upstream's generator, whose engines answer at once."""
    told: list[dict] = []
    monkeypatch.setattr(rollouts, "ray", SimpleNamespace(put=lambda x: x, get=lambda x: x))

    def build():
        args = SimpleNamespace(
            train=SimpleNamespace(seed=1, num_episodes=3),
            data=SimpleNamespace(dataloader_num_workers=0),
            rollout=SimpleNamespace(batch_size=3, n_samples_per_prompt=2, vllm_generate_batch_size=None),
            vllm=SimpleNamespace(enable_sleep=False),
            algo=SimpleNamespace(dynamic_filtering_enable=False),
        )

        def loader(data, batch, pin, shuffle, collate, sampler, num_workers):
            return StatefulDataLoader(data, batch_size=batch, sampler=sampler, collate_fn=collate)

        said = SimpleNamespace(put=told.append)
        strategy = SimpleNamespace(args=args, setup_dataloader=loader, progress=said)
        engine = SimpleNamespace(hold_tokenizer=SimpleNamespace(remote=lambda tokenizer: tokenizer))
        prompts = SimpleNamespace(dataset=Prompts(range(10)))
        made = RPGSamplesGenerator(strategy, prompts, None, "tokenizer", [engine])
        made.told = told
        return made

    def generate(self, dataloader_iter, num_prompts, dynamic_filtering, **kwargs):
        drawn = []
        for _ in range(num_prompts):
            item = next(dataloader_iter, None)
            if item is None:
                return [s for p in drawn for s in (p, p)], len(drawn), True
            drawn.append(f"{item[1][0]} #{self._number()}")
        return [s for p in drawn for s in (p, p)], len(drawn), False

    monkeypatch.setattr(SamplesGenerator, "_generate_vllm", generate)
    return build


def rollouts_of(made, count: int) -> list:
    """Of so many calls; a call that ends an episode gives nothing."""
    return [made.generate_samples()[0] for _ in range(count)]


def test_from_any_step_the_same_prompts_with_the_same_numbers(generator):
    whole = generator()
    expected = rollouts_of(whole, 13)  # three episodes, the run's end included
    assert [len(samples) for samples in expected] == [6, 6, 6, 0, 6, 6, 6, 0, 6, 6, 6, 6, 0]
    drawn = [sample for samples in expected for sample in samples]
    assert [text.partition("#")[2] for text in drawn[::2]] == [str(i + 1) for i in range(30)], "none left out"
    for step in range(12):
        until = generator()
        rollouts_of(until, step)
        state = until.state_dict()
        resumed = generator()
        resumed.load_state_dict(state)
        assert rollouts_of(resumed, 13 - step) == expected[step:], f"from step {step}"


def test_what_an_episode_leaves_of_a_rollout_is_said(generator):
    made = generator()
    made.args.rollout.batch_size = 4
    calls = [made.generate_samples() for _ in range(10)]
    assert [len(samples) for samples, *_ in calls] == [8, 8, 0, 8, 8, 8, 0, 8, 8, 0]
    assert [exhausted for *_, exhausted in calls] == [not samples for samples, *_ in calls]
    assert sum(drawn for _, _, drawn, _ in calls) == 30
    assert [note["text"] for note in made.told] == [
        "episode 1 ended with 2 of a rollout's 4 prompts; the next episode fills it",
        "the run ended with 2 prompts, too few for a rollout of 4: not trained on",
    ]


def test_samples_made_and_not_used_go_on(generator):
    made = generator()
    made._sample_buffer = ["a", "b"]
    made._dataloader_iter = iter(made.prompts_dataloader)
    resumed = generator()
    resumed.load_state_dict(made.state_dict())
    samples = resumed.generate_samples()[0]
    assert (samples[:2], len(samples)) == (["a", "b"], 6)
    assert (resumed.position, resumed.carried_prompts) == (2, 1)


def test_a_run_that_has_ended_draws_nothing_whatever_is_left(generator):
    made = generator()
    rollouts_of(made, 1)
    made.ended = True
    assert made.generate_samples() == ([], None, 0, True)
    assert made.position == 3


def test_an_engine_is_asked_with_a_number_and_without_the_tokenizer():
    asked = []
    remote = SimpleNamespace(remote=lambda **request: asked.append(request) or "answer")
    engine = NumberedEngine(SimpleNamespace(generate_responses=remote, sleep="its own"), iter("12").__next__)
    assert engine.generate_responses.remote(prompt="a", hf_tokenizer="large") == "answer"
    engine.generate_responses.remote(prompt="b", hf_tokenizer="large")
    assert asked == [{"prompt": "a", "draw": "1"}, {"prompt": "b", "draw": "2"}]
    assert engine.sleep == "its own"


@pytest.fixture
def rollout_actor(monkeypatch):
    """One without vLLM: what each sample was drawn with."""
    asked = []

    async def generate(self, prompt_token_ids, sampling_params, multi_modal_data=None):
        await asyncio.sleep(0)  # others run in between
        asked.append((prompt_token_ids, sampling_params.seed))

    async def generate_responses(self, prompt, num_samples, sampling_params, hf_tokenizer):
        assert hf_tokenizer == "held"
        for _ in range(2):  # an agent of two turns
            await self.generate(prompt, sampling_params)
        return [{"prompt": prompt}]

    base = RolloutRayActor.__ray_actor_class__
    monkeypatch.setattr(base, "generate", generate)
    monkeypatch.setattr(base, "generate_responses", generate_responses)

    def build(seed):
        actor = object.__new__(RPGRolloutActor)
        actor.kwargs, actor.sampling_seed, actor._tokenizer, actor._is_lean = {}, seed, "held", False
        actor._under_way, actor._rewards = {}, None
        return actor, asked

    return build


def draw(actor, *draws) -> None:
    async def all_of_them():
        params = SimpleNamespace(logprobs=None, seed=None)
        requests = [actor.generate_responses(prompt=d, draw=d, sampling_params=params, num_samples=3) for d in draws]
        return await asyncio.gather(*requests)

    answers = asyncio.run(all_of_them())
    assert answers == [[{"prompt": d, "versions": (0, 0)}] * 3 for d in draws]


def test_a_sample_says_under_which_weights_it_was_drawn(rollout_actor, monkeypatch):
    """Those when it was first asked for, and those when the last turn was answered."""
    actor, _ = rollout_actor(seed=None)
    base = RolloutRayActor.__ray_actor_class__
    plain = base.generate

    async def slow(self, *request):
        self._commits += 1  # a sync comes in between
        return await plain(self, *request)

    monkeypatch.setattr(base, "generate", slow)
    params = SimpleNamespace(logprobs=None, seed=None)
    answers = asyncio.run(actor.generate_responses(prompt="1", draw="1", sampling_params=params))
    assert answers == [{"prompt": "1", "versions": (0, 2)}]


def test_abandoned_draws_end_and_the_others_are_answered(rollout_actor, monkeypatch):
    actor, _ = rollout_actor(seed=None)
    ended = []

    async def endless(self, *, prompt, **_):
        try:
            await asyncio.sleep(0 if prompt == "1" else 3600)
            return [{}]
        except asyncio.CancelledError:
            await asyncio.sleep(0)  # an engine's request is taken back here
            ended.append(prompt)
            raise

    monkeypatch.setattr(RolloutRayActor.__ray_actor_class__, "generate_responses", endless)

    async def all_of_them():
        params = SimpleNamespace(logprobs=None, seed=None)
        ask = [actor.generate_responses(prompt=d, draw=d, sampling_params=params, num_samples=2) for d in "1234"]
        asked = [asyncio.ensure_future(request) for request in ask]
        await asyncio.sleep(0.01)
        await actor.abandon(["1", "3", "4", "5"])  # answered already, two that are under way, another engine's
        assert ended == ["3", "3", "4", "4"], "when it returns, the engine works on none of them"
        asked[1].cancel()  # by Ray: not ours to hide
        return await asyncio.gather(*asked, return_exceptions=True)

    first, second, *rest = asyncio.run(all_of_them())
    assert (first, rest) == ([{"versions": (0, 0)}] * 2, [None, None])
    assert isinstance(second, asyncio.CancelledError)
    assert not actor._under_way


def test_a_seed_is_of_the_draw_not_of_its_company(rollout_actor):
    actor, asked = rollout_actor(seed=7)
    draw(actor, "1", "2")
    together = sorted(asked)
    assert len({seed for _, seed in together}) == len(together) == 12
    asked.clear()
    draw(actor, "2")
    draw(actor, "1")
    assert sorted(asked) == together
    other, asked = rollout_actor(seed=8)
    asked.clear()
    draw(other, "1", "2")
    assert not {seed for _, seed in asked} & {seed for _, seed in together}


def test_without_determinism_the_engine_draws_by_itself(rollout_actor):
    actor, asked = rollout_actor(seed=None)
    draw(actor, "1")
    assert {seed for _, seed in asked} == {None}


def test_a_rollouts_order_does_not_tell_what_was_finished_first():
    def sample(prompt, *tokens):
        return SimpleNamespace(prompts=[prompt], sequences=torch.tensor([tokens]))

    groups = [[sample("b", 1), sample("b", 2)], [sample("a", 3), sample("a", 1)], [sample("a", 2), sample("a", 9)]]
    flat = [s for g in groups for s in g]
    turned = [s for g in reversed(groups) for s in g]
    ordered = [(s.prompts[0], s.sequences.item()) for s in in_order(flat, 2)]
    assert ordered == [("a", 2), ("a", 9), ("a", 3), ("a", 1), ("b", 1), ("b", 2)]
    assert [(s.prompts[0], s.sequences.item()) for s in in_order(turned, 2)] == ordered
