"""Buckets of any model: every tensor once, in order, under the cap, cut between layers."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rpg_openrlhf.weight_sync.plan import ALIGNMENT, checksum, make_plan

DTYPES = st.sampled_from([torch.bfloat16, torch.float32, torch.uint8])
SHAPES = st.lists(st.integers(0, 9), max_size=3).map(tuple)


@st.composite
def models(draw):
    """An embedding, layers of one to five tensors, a norm and a head."""
    names = ["model.embed.weight"]
    for layer in range(draw(st.integers(0, 6))):
        names += [f"model.layers.{layer}.{part}.weight" for part in range(draw(st.integers(1, 5)))]
    names += ["model.norm.weight", "lm_head.weight"]
    return [(name, draw(SHAPES), draw(DTYPES)) for name in names]


def size(tensor) -> int:
    """With what it is padded to."""
    return -(-math.prod(tensor[1]) * tensor[2].itemsize // ALIGNMENT) * ALIGNMENT


def layer(name: str) -> str:
    return ".".join(name.split(".")[:3]) if ".layers." in name else name


@given(models(), st.integers(1, 4000))
def test_every_tensor_once_in_order(tensors, cap):
    pieces = [piece for bucket in make_plan(tensors, cap) for piece in bucket.pieces]
    assert [(piece.name, piece.shape, piece.dtype) for piece in pieces] == tensors


@given(models(), st.integers(1, 4000))
def test_only_a_tensor_larger_than_the_cap_exceeds_it_and_is_alone(tensors, cap):
    for bucket in make_plan(tensors, cap):
        assert bucket.nbytes % ALIGNMENT == 0
        if bucket.nbytes > cap:
            large = [piece for piece in bucket.pieces if piece.stop > piece.start]
            assert len(large) == 1


@given(models(), st.integers(1, 4000))
def test_a_layer_that_fits_is_not_cut(tensors, cap):
    whole: dict[str, int] = {}
    for tensor in tensors:
        whole[layer(tensor[0])] = whole.get(layer(tensor[0]), 0) + size(tensor)
    homes: dict[str, set[int]] = {}
    for number, bucket in enumerate(make_plan(tensors, cap)):
        for piece in bucket.pieces:
            homes.setdefault(layer(piece.name), set()).add(number)
    assert all(len(found) == 1 for name, found in homes.items() if whole[name] <= cap)


@given(models(), st.integers(1, 4000))
def test_no_more_buckets_than_needed(tensors, cap):
    """Two neighbours would not have fitted into one, or a whole layer begins the second."""
    plan = make_plan(tensors, cap)
    for one, other in itertools.pairwise(plan):
        begun = [t for t in tensors if layer(t[0]) == layer(other.pieces[0].name)]
        assert one.nbytes + sum(map(size, begun)) > cap


@given(models(), st.integers(64, 4000), st.randoms(use_true_random=False))
def test_what_is_packed_is_unpacked_and_any_change_is_noticed(tensors, cap, random):
    for bucket in make_plan(tensors, cap):
        sent = torch.zeros(bucket.nbytes, dtype=torch.uint8)
        for view in bucket.views(sent):
            view.copy_(torch.rand(view.shape) * 200)
        received = sent.clone()
        for one, other in zip(bucket.views(sent), bucket.views(received), strict=True):
            assert torch.equal(one, other)
        assert checksum(received) == checksum(sent)
        if bucket.nbytes:
            at = random.randrange(bucket.nbytes)
            received[at] ^= 1 << random.randrange(8)
            assert checksum(received) != checksum(sent)


def test_a_real_models_plan():
    """Qwen3-4B's 398 tensors in buckets of 1 GiB: eight, the embedding sharing its own with the first layers."""
    layers = [
        *(("q_proj", (4096, 2560)), ("k_proj", (1024, 2560)), ("v_proj", (1024, 2560)), ("o_proj", (2560, 4096))),
        *(("q_norm", (128,)), ("k_norm", (128,)), ("gate_proj", (9728, 2560)), ("up_proj", (9728, 2560))),
        *(("down_proj", (2560, 9728)), ("input_layernorm", (2560,)), ("post_attention_layernorm", (2560,))),
    ]
    tensors = [("model.embed_tokens.weight", (151936, 2560), torch.bfloat16)]
    for i in range(36):
        tensors += [(f"model.layers.{i}.{name}.weight", shape, torch.bfloat16) for name, shape in layers]
    tensors.append(("model.norm.weight", (2560,), torch.bfloat16))
    assert len(tensors) == 398
    plan = make_plan(tensors, 2**30)
    assert len(plan) == 8
    assert sum(bucket.nbytes for bucket in plan) == pytest.approx(8.04e9, rel=1e-3)
    assert plan[0].pieces[0].name == "model.embed_tokens.weight"
    assert [bucket.pieces[0].name.split(".")[-2] for bucket in plan[1:]] == ["q_proj"] * 7
