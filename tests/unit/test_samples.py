"""An engine's answers as columns, and a sample of them as upstream's driver reads one."""

import asyncio
import pickle
from types import SimpleNamespace as Namespace

import pytest
import torch

from tests.unit.answers_case import GROUP, answers
from tests.upstream import make_importable

make_importable()

from openrlhf.trainer.ppo_utils.samples_generator import SamplesGenerator
from openrlhf.trainer.ray.vllm_engine import RolloutRayActor

from rpg_openrlhf.runs import evaluation
from rpg_openrlhf.sampling import dynamic_sampling
from rpg_openrlhf.sampling.engine_actor import RPGRolloutActor
from rpg_openrlhf.sampling.generator import RPGSamplesGenerator
from rpg_openrlhf.sampling.reward_check import RewardError
from rpg_openrlhf.sampling.samples import Sample, pack


def test_a_sample_is_read_as_an_experience():
    responses = answers()[:GROUP]
    for sample, response in zip(pack(responses, 6), responses, strict=True):
        expected = SamplesGenerator._process_response_into_experience(None, response, max_len=6)
        kept = pickle.loads(pickle.dumps(sample))  # in a checkpoint
        for found in (sample, kept, sample.experience()):
            for name in ("sequences", "rewards", "scores", "truncated", "total_length", "response_length"):
                a, b = getattr(expected, name), getattr(found, name)
                assert (a.dtype, a.tolist()) == (b.dtype, b.tolist()), name
            assert expected.prompts == found.prompts
        whole = kept.experience()
        assert torch.equal(whole.rollout_log_probs, expected.rollout_log_probs)
        assert torch.equal(whole.action_mask, expected.action_mask)
        assert {k: v.item() for k, v in whole.info.items()} == {k: v.item() for k, v in expected.info.items()}


def test_log_probs_of_some_samples_only_are_no_column():
    some = [*answers()[:1], *answers(log_probs=False)[1:GROUP]]
    assert pack(some, 12) is some


@pytest.mark.parametrize(("lean", "draw", "packed"), [(True, "7", True), (True, None, False), (False, "7", False)])
def test_an_engine_answers_in_columns_where_our_driver_asked(monkeypatch, lean, draw, packed):
    """Upstream's asynchronous trainer gives no number to a draw; an agent of the user's may answer anything."""
    rest = iter(answers()[:GROUP])

    async def generate_responses(self, num_samples, **request):
        return [next(rest)]

    monkeypatch.setattr(RolloutRayActor.__ray_actor_class__, "generate_responses", generate_responses)
    actor = object.__new__(RPGRolloutActor)
    actor.kwargs, actor._tokenizer, actor._is_lean, actor._requests = {}, "held", lean, iter("1")
    actor._under_way, actor._rewards = {}, None
    asked = actor.generate_responses(
        sampling_params=Namespace(logprobs=None), num_samples=GROUP, draw=draw, max_length=12
    )
    found = asyncio.run(asked)
    assert isinstance(found[0], Sample) == packed
    assert len(found) == GROUP


def test_the_groups_that_upstream_keeps_are_kept(monkeypatch):
    """Upstream's own loop over dictionaries, and ours, which draws ahead, over both: the same prompts."""
    from openrlhf.trainer.ppo_utils import samples_generator

    groups = [answers(seed)[:GROUP] for seed in range(9)]
    for group, score in zip(groups, (0.0, 0.5, 1.0, 0.25, 0.0, 0.75, 0.5, 0.5, 1.0), strict=True):
        for one in group:
            one["scores"] = score

    def kept(kind, made, max_draws=2) -> tuple:
        answer = Namespace(
            wait=lambda refs, **_: (refs[:1], refs[1:]),
            get=lambda refs: [made[ref] for ref in refs] if isinstance(refs, list) else made[refs],
        )
        for module in (samples_generator, dynamic_sampling):
            monkeypatch.setattr(module, "ray", answer)
        generator, rest = object.__new__(kind), iter(range(9))
        algo = Namespace(dynamic_filtering_range=(0.0, 1.0), dynamic_filtering_max_draws=max_draws)
        generator.args = Namespace(algo=algo, rollout=Namespace(n_samples_per_prompt=GROUP, batch_size=3))
        generator._evaluated, generator._sample_buffer, generator.vllm_engines = None, [], []
        generator._dispatch_prompts_to_vllm = lambda prompts, labels, **_: [next(rest) for _ in prompts]
        prompts = dynamic_sampling.Prompts(("source", [str(i)], ["label"], [None]) for i in range(9))
        found, *drawn = generator._generate_vllm(prompts, 3, dynamic_filtering=True, max_len=12)
        return [sample.sequences.tolist() for sample in found], drawn

    expected = kept(SamplesGenerator, groups)
    assert (len(expected[0]), expected[1]) == (3 * GROUP, [6, False])
    assert kept(RPGSamplesGenerator, groups) == expected
    assert kept(RPGSamplesGenerator, [pack(group, 12) for group in groups]) == expected
    starved = "dynamic sampling: 3 prompts drawn, 1 of 3 groups passed, 2 rejected, after 1 times"
    with pytest.raises(dynamic_sampling.StarvedRollout, match=starved):
        kept(RPGSamplesGenerator, groups, max_draws=1)
    assert kept(RPGSamplesGenerator, groups, max_draws=0) == expected
    for response in groups[0]:
        response["scores"] = -1.0  # of a reward function that returns no scores, upstream takes the reward
    with pytest.raises(RewardError, match=r"the reward: a score is -1, .*dynamic_filtering_range 0 1 is for scores"):
        kept(RPGSamplesGenerator, groups)


def test_an_evaluation_reads_the_same():
    from openrlhf.trainer.ppo_trainer import compute_eval_metrics

    responses = answers()
    theirs = [SamplesGenerator._process_response_into_experience(None, one, max_len=12) for one in responses]
    ours = [s for start in range(0, len(responses), GROUP) for s in pack(responses[start : start + GROUP], 12)]
    loader = [(["sums"], [f"p{i}"], ["l"], [None]) for i in range(len(responses) // GROUP)]
    expected = compute_eval_metrics(loader, theirs, GROUP)
    assert expected["eval_num_samples"] == len(responses)
    assert compute_eval_metrics(loader, ours, GROUP) == expected
    assert evaluation.metrics(loader, ours, GROUP) == evaluation.metrics(loader, theirs, GROUP)
