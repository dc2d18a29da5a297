"""From the engines' answers to a training step: tensor for tensor what upstream's own path makes of them."""

import copy
import itertools
import pickle
from dataclasses import fields
from types import SimpleNamespace as Namespace

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.answers_case import GROUP, answer, answers
from tests.upstream import make_importable

make_importable()

from openrlhf.trainer.ppo_utils import experience as upstream
from openrlhf.trainer.ppo_utils import experience_maker as maker_module
from openrlhf.trainer.ppo_utils.experience_maker import RemoteExperienceMaker
from openrlhf.trainer.ppo_utils.kl_controller import FixedKLController
from openrlhf.trainer.ppo_utils.replay_buffer import NaiveReplayBuffer
from openrlhf.trainer.ppo_utils.samples_generator import SamplesGenerator
from openrlhf.trainer.ray import launcher

from rpg_openrlhf.sampling.generator import RPGSamplesGenerator
from rpg_openrlhf.sampling.samples import Sample, pack
from rpg_openrlhf.training import micro_batches
from rpg_openrlhf.training.column_actors import ColumnBuffer, ColumnForward
from rpg_openrlhf.training.micro_batches import ColumnMaker, MicroBatch

PAD = 7
UNREAD = ("returns", "prompts", "labels", "images", "mm_train_inputs")  # by a policy's training step, of text


class Object:
    """What stands in Ray's store: pickled, as it is there."""

    def __init__(self, value):
        self.pickled = pickle.dumps(value)

    def get(self):
        return pickle.loads(self.pickled)


@pytest.fixture(autouse=True)
def _without_ray(monkeypatch):
    ray = Namespace(put=Object, get=lambda refs: [r.get() for r in refs] if isinstance(refs, list) else refs.get())
    monkeypatch.setattr(launcher, "ray", ray)
    monkeypatch.setattr(maker_module, "ray", ray)


@pytest.fixture(scope="module", autouse=True)
def _one_rank():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


class Rank(launcher.BaseModelActor):
    """A policy's actor whose log-probs are of the ids; it notes what it was asked."""

    def __init__(self, buffer):
        self.strategy, self.buffer, self.asked = Namespace(is_rank_0=lambda: False), buffer, []

    def forward(self, sequences, action_mask=None, attention_mask=None, mm_train_inputs_list=None):
        self.asked.append((sequences, action_mask, attention_mask))
        return -(sequences[:, 1:] % 13).float() / 7 * action_mask.float()

    def append(self, experience):
        self.buffer.append(experience)


class ColumnRank(ColumnForward, Rank):
    """The same, which takes columns."""


class Group(launcher.RayActorGroup):
    """Upstream's, of these ranks."""

    def __init__(self, ranks):
        def remote(rank):
            return Namespace(remote=lambda name, ref, a, b: Object(rank.execute_batch(name, ref.get(), a, b)))

        self._actor_handlers = [Namespace(execute_batch=remote(rank)) for rank in ranks]
        self.duplicate_actors = 1


def arguments(**chosen) -> Namespace:
    given = {"estimator": "dr_grpo", "dynamic": False, "ranks": 1, "use_loss": True, "overlong": None, "gamma": 1.0}
    given |= chosen
    return Namespace(
        algo=Namespace(
            advantage=Namespace(estimator=given["estimator"], gamma=given["gamma"], no_std_norm=False),
            kl=Namespace(use_loss=given["use_loss"], init_coef=0.1, estimator="k3"),
        ),
        train=Namespace(
            dynamic_batch_enable=given["dynamic"], colocate_all=False, colocate_actor_ref=False, max_tokens_per_gpu=40,
            batch_size=4 * given["ranks"],
        ),
        ds=Namespace(ring_attn_size=1, tensor_parallel_size=1),
        rollout=Namespace(
            micro_batch_size=3, n_samples_per_prompt=GROUP, max_tokens_per_gpu=40, max_new_tokens=8, batch_size=99
        ),
        reward=Namespace(clip_range=None, overlong_buffer_len=given["overlong"], overlong_penalty_factor=1.0),
        actor=Namespace(num_nodes=1, num_gpus_per_node=given["ranks"]),
    )  # fmt: skip


def batches(ours: bool, responses: list[dict], args: Namespace, kl: float = 0.0, limit: int = 12):
    """One rollout by upstream's path or ours -> what each rank's model was asked, and each rank's training batches."""
    responses = copy.deepcopy(responses)
    buffers = [
        (ColumnBuffer if ours else NaiveReplayBuffer)(3, dynamic_batch=args.train.dynamic_batch_enable)
        for _ in range(args.actor.num_gpus_per_node)
    ]
    ranks = [(ColumnRank if ours else Rank)(buffer) for buffer in buffers]
    group = Group(ranks)
    generator = object.__new__(RPGSamplesGenerator if ours else SamplesGenerator)
    samples = []
    for start in range(0, len(responses), GROUP):
        received = responses[start : start + GROUP]
        received = Object(pack(received, limit)).get() if ours else received
        samples += [generator._process_response_into_experience(one, max_len=limit) for one in received]
    kind = ColumnMaker if ours else RemoteExperienceMaker
    maker = kind(group, None, None, group, FixedKLController(kl), Namespace(args=args), Namespace(pad_token_id=PAD))
    experiences = maker.make_experience_batch(samples)
    shown = experiences[0].sequences[0].tolist(), experiences[0].info["reward"][0].item()
    if args.train.dynamic_batch_enable:
        balance = micro_batches.balance_experiences if ours else upstream.balance_experiences
        experiences = balance(experiences, args)
    group.async_run_method_batch(method_name="append", experience=experiences)
    return shown, [rank.asked for rank in ranks], [list(trained(buffer, args)) for buffer in buffers]


def trained(buffer, args):
    """The micro-batches of the buffer, in its order, and their weights where they are dynamic."""
    if not args.train.dynamic_batch_enable:
        return [(buffer.collate_fn(buffer.items[i : i + 3]), None) for i in range(0, len(buffer.items), 3)]
    mesh = {"dp": Namespace(get_group=lambda: None)}
    args = Namespace(**{**vars(args), "train": Namespace(**{**vars(args.train), "batch_size": 4})})
    buffer.setup_dynamic_batch(Namespace(args=args, ds_device_mesh=mesh, all_reduce=lambda found, op: found))
    weights = zip(
        buffer.dynamic_batch_num_tokens, buffer.dynamic_global_batch_size, buffer.dynamic_optimizer_step, strict=True
    )
    return [(buffer.collate_fn([buffer[i]]), found) for i, found in enumerate(weights)]


def assert_equal_batches(theirs, ours) -> None:
    """Every tensor a training step may read: same dtype, shape and bits."""
    assert len(theirs) == len(ours) > 0
    for (expected, its_weights), (found, weights) in zip(theirs, ours, strict=True):
        assert its_weights == weights
        for field in fields(expected):
            a, b = getattr(expected, field.name), getattr(found, field.name)
            if field.name in UNREAD and (b is None or b == []):
                continue
            if isinstance(a, torch.Tensor):
                assert (a.dtype, a.shape) == (b.dtype, b.shape), field.name
                assert torch.equal(a.nan_to_num(9), b.nan_to_num(9)), field.name
            elif field.name not in ("info", *UNREAD):
                assert a == b, field.name
        assert list(expected.info) == list(found.info)
        for name, logged in expected.info.items():  # a list of tensors, made one by the training step
            read = [torch.as_tensor(one, dtype=torch.float).nan_to_num(9) for one in (logged, found.info[name])]
            assert torch.equal(*read), name


def assert_equal_paths(responses, args, **options) -> None:
    shown, asked, expected = batches(False, responses, args, **options)
    ours, our_asked, found = batches(True, responses, args, **options)
    assert shown == ours, "the sample that is logged"
    for theirs, mine in zip(asked, our_asked, strict=True):
        assert len(theirs) == len(mine) > 0
        for one, other in zip(itertools.chain(*theirs), itertools.chain(*mine), strict=True):
            assert one.dtype == other.dtype
            assert torch.equal(one, other), "what the models are asked"
    for theirs, mine in zip(expected, found, strict=True):
        assert_equal_batches(theirs, mine)


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize(
    "estimator", ["dr_grpo", "group_norm", "reinforce", "reinforce_baseline", "rloo", "flash_reinforce"]
)
def test_equal_to_the_bit(estimator, dynamic, ranks):
    assert_equal_paths(answers(), arguments(estimator=estimator, dynamic=dynamic, ranks=ranks))


@pytest.mark.parametrize(
    ("chosen", "kl"),
    [
        ({"use_loss": False}, 0.3),  # KL in the reward: a reward a token
        ({"use_loss": False, "estimator": "reinforce", "gamma": 0.9}, 0.3),
        ({"estimator": "reinforce", "gamma": 0.5}, 0.0),
        ({"overlong": 4}, 0.0),
    ],
)
@pytest.mark.parametrize("dynamic", [False, True])
def test_equal_with_what_changes_rewards(chosen, kl, dynamic):
    assert_equal_paths(answers(), arguments(dynamic=dynamic, **chosen), kl=kl)


def test_equal_without_the_engines_log_probs():
    assert_equal_paths(answers(log_probs=False), arguments())


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 9), st.floats(-2, 2, width=32)), min_size=8, max_size=8),
    st.booleans(),
    st.integers(4, 20),
)
def test_equal_whatever_the_lengths(sizes, dynamic, limit):
    """Empty prompts and responses too, and sequences cut by the limit."""
    responses = [answer(i, prompt, max(response, 2 - prompt), r) for i, (prompt, response, r) in enumerate(sizes)]
    assert_equal_paths(responses, arguments(dynamic=dynamic), limit=limit)


def unlike(**fields) -> list[dict]:
    found = answers()
    found[3] |= fields
    return found


@pytest.mark.parametrize(
    "responses",
    [
        unlike(action_ranges=[(1, 2), (2, 3)]),
        unlike(images=["picture"]),
        unlike(mm_train_inputs={"pixel_values": torch.ones(1)}),
    ],
    ids=["turns", "images", "pixels"],
)
def test_what_does_not_fit_goes_upstreams_way(responses):
    assert pack(responses[2:4], 12) == responses[2:4]
    assert_equal_paths(responses, arguments())


def test_logs_that_are_no_numbers_are_upstreams_to_judge():
    responses = unlike(extra_logs={"accuracy": [1, 2]})
    assert not isinstance(pack(responses[2:4], 12)[0], Sample)
    responses = unlike(extra_logs={"accuracy": 1.0})
    for ours in (False, True):
        with pytest.raises(ValueError, match="does not match batch_size"):
            batches(ours, responses, arguments())
    with pytest.raises(ValueError, match="reward_model_group is required"):
        batches(True, [one | {"reward": None} for one in answers()], arguments())


def test_a_micro_batch_is_sent_without_padding():
    """And never the ids as int64, or a mask."""
    one = MicroBatch.of(list(pack([answer(0, 500, 2, 1.0), answer(1, 500, 490, 1.0)], 999)), PAD)
    assert len(pickle.dumps(one, protocol=5)) < 4 * (502 + 990) + 4 * (501 + 989) + 1500


def test_samples_of_an_older_checkpoint_are_mixed_with_new_ones():
    args, old = arguments(), answers()
    maker = object.__new__(ColumnMaker)
    maker.args, maker.critic_model_group, maker.tokenizer = args, None, Namespace(pad_token_id=PAD)
    kept = [SamplesGenerator._process_response_into_experience(None, one, max_len=12) for one in old[:GROUP]]
    mixed = kept + list(pack(old[GROUP : 2 * GROUP], 12))
    assert isinstance(mixed[-1], Sample)
    made = maker.split_rollout_samples(mixed)
    assert not any(isinstance(batch, MicroBatch) for batch in made)
    assert [len(batch.sequences) for batch in made] == [3, 1]
