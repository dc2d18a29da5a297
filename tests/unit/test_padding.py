"""Packing without flash_attn: the helpers alone, under upstream's packing, and through a model's log-probs."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Qwen3Config, Qwen3ForCausalLM

from tests import upstream

upstream.make_importable()

from openrlhf.models import Actor
from openrlhf.models import ring_attn_utils as padding
from openrlhf.models.ring_attn_utils import gather_and_pad_tensor, unpad_and_slice_tensor

VOCABULARY = 50


@settings(max_examples=30, deadline=None)
@given(rows=st.lists(st.lists(st.booleans(), min_size=6, max_size=6).filter(any), min_size=1, max_size=5))
def test_pad_is_the_inverse_of_unpad(rows):
    """Any mask; tokens come out in order of sequence, then of place, and go back with zeros between."""
    mask = torch.tensor(rows)
    hidden = torch.arange(mask.numel() * 3, dtype=torch.float).reshape(*mask.shape, 3) + 1
    packed, indices, cu_seqlens, longest, lengths = padding.unpad_input(hidden, mask.long())
    assert packed.equal(hidden[mask])
    assert lengths.tolist() == [sum(row) for row in rows]
    assert longest == max(sum(row) for row in rows)
    assert cu_seqlens.tolist() == [sum(map(sum, rows[:i])) for i in range(len(rows) + 1)]
    assert cu_seqlens.dtype == torch.int32, "as the kernels want it"
    assert padding.index_first_axis(hidden.flatten(0, 1), indices).equal(packed)
    padded = padding.pad_input(packed, indices, *mask.shape)
    assert padded.equal(hidden * mask.unsqueeze(-1))


def test_padding_has_a_gradient():
    """The loss reaches a packed token through its own place alone."""
    mask = torch.tensor([[1, 1, 0], [0, 1, 1]])
    packed = torch.randn(4, 1, requires_grad=True)
    indices = padding.unpad_input(torch.zeros(2, 3, 1), mask)[1]
    weights = torch.arange(6.0).reshape(2, 3, 1)
    (padding.pad_input(packed, indices, 2, 3) * weights).sum().backward()
    assert packed.grad.flatten().tolist() == [0.0, 1.0, 4.0, 5.0]


def test_ring_attention_is_refused():
    with pytest.raises(NotImplementedError, match="ring_attn_size"):
        padding.all_gather(torch.zeros(1), group=None)


def sequences_and_mask() -> tuple[torch.Tensor, torch.Tensor]:
    """Three left-and-right padded sequences of 4, 9 and 12 tokens, as a rollout has them; (B, T)."""
    generator = torch.Generator().manual_seed(0)
    sequences = torch.randint(1, VOCABULARY, (3, 12), generator=generator)
    mask = torch.zeros_like(sequences)
    for row, (start, stop) in enumerate([(5, 9), (0, 9), (0, 12)]):
        mask[row, start:stop] = 1
    return sequences * mask, mask


def test_upstreams_packing_and_unpacking():
    """One row of all tokens, positions from zero in each sequence, each token's successor; and back."""
    sequences, mask = sequences_and_mask()
    packed, positions, rolled, pad_len, indices = unpad_and_slice_tensor(sequences, mask, None)
    assert packed.equal(sequences[mask.bool()].unsqueeze(0))
    assert positions.tolist() == [[*range(4), *range(9), *range(12)]]
    assert rolled.equal(torch.roll(sequences, -1, 1)[mask.bool()].unsqueeze(0))
    assert gather_and_pad_tensor(packed, None, pad_len, indices, 3, 12).equal(sequences)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    """A tiny Qwen3 with weights large enough for attention to matter."""
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        initializer_range=0.2,
    )
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("qwen3")
    Qwen3ForCausalLM(config).save_pretrained(path)
    return str(path)


def log_probs_and_gradient(model: str, packing: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probs of the tokens after the first, (B, T - 1), zero where masked, and their sum's gradient, flat."""
    sequences, mask = sequences_and_mask()
    actor = Actor(model, attn_implementation="sdpa", param_dtype="fp32", packing_samples=packing)
    action_mask = mask[:, 1:] * mask[:, :-1]
    log_probs = actor(sequences, action_mask, attention_mask=mask)
    log_probs.sum().backward()
    return log_probs.detach(), torch.cat([parameter.grad.flatten() for parameter in actor.parameters()])


@pytest.mark.skipif(torch.cuda.is_available(), reason="upstream knows no fp32 where the CPU platform is not")
def test_packed_and_padded_log_probs_agree(model):
    """A packed sequence sees nothing of its neighbours: sdpa cuts the row where positions start again."""
    padded, padded_gradient = log_probs_and_gradient(model, packing=False)
    packed, packed_gradient = log_probs_and_gradient(model, packing=True)
    assert padded.min() < -1
    torch.testing.assert_close(packed, padded, rtol=0, atol=1e-5)
    assert (packed_gradient - padded_gradient).norm() <= 1e-5 * padded_gradient.norm()
