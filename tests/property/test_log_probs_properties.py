"""Invariants of the output layer's log-probs and entropy, on random layers; float64. Shapes: (N, H), (V, H)."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from rpg_openrlhf.objectives.log_probs import linear_log_probs_and_entropy

torch.set_num_threads(1)
light = settings(max_examples=60, deadline=None, derandomize=True)
LEAVES = ("hidden", "weight", "bias")


@st.composite
def layers(draw, fewest: int = 0):
    """Keyword arguments: any number of tokens, none included, any vocabulary, logits flat to certain."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    tokens, size, vocabulary = draw(st.integers(fewest, 9)), draw(st.integers(1, 6)), draw(st.integers(1, 150))
    scale = draw(st.sampled_from((0.01, 1.0, 20.0)))
    return {
        "hidden": torch.randn(tokens, size, generator=generator, dtype=torch.float64),
        "weight": scale * torch.randn(vocabulary, size, generator=generator, dtype=torch.float64),
        "bias": torch.randn(vocabulary, generator=generator, dtype=torch.float64) if draw(st.booleans()) else None,
        "labels": torch.randint(0, vocabulary, (tokens,), generator=generator),
        "temperature": draw(st.sampled_from((0.5, 1.0, 2.0))),
    }


def results(layer: dict, frozen=(), factors=(0.7, -0.3), **options):
    """Values and gradients by name; a factor of None leaves that result out of the loss."""
    layer = dict(layer)
    for name in set(LEAVES) - set(frozen):
        layer[name] = layer[name].clone().requires_grad_() if layer[name] is not None else None
    values = linear_log_probs_and_entropy(**layer, **options)
    tokens = torch.arange(1.0, 1.0 + len(layer["labels"]), dtype=torch.float64)
    used = [(f * tokens * x).sum() for f, x in zip(factors, values, strict=True) if f is not None]
    leaves = {name: layer[name] for name in LEAVES if layer[name] is not None and layer[name].requires_grad}
    gradients = torch.autograd.grad(sum(used), list(leaves.values())) if leaves else ()
    return [x.detach() if x is not None else None for x in values], dict(zip(leaves, gradients, strict=True))


def assert_same(found, expected):
    for a, b in zip(found[0], expected[0], strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            assert_close(a, b, rtol=1e-9, atol=1e-11)
    assert found[1].keys() == expected[1].keys()
    for name in found[1]:
        assert_close(found[1][name], expected[1][name], rtol=1e-9, atol=1e-10)


@light
@given(layers(), st.integers(1, 2000))
def test_tiles_change_nothing(layer, elements):
    assert_same(results(layer, tile_elements=elements), results(layer, tile_elements=10**9))


@light
@given(layers(fewest=1))
def test_probabilities(layer):
    """Over all labels they sum to one, and their entropy lies between 0 and log V."""
    vocabulary = len(layer["weight"])
    every = {**layer, "hidden": layer["hidden"][:1].expand(vocabulary, -1), "labels": torch.arange(vocabulary)}
    log_probs, entropy = linear_log_probs_and_entropy(**every, tile_elements=vocabulary * 8)
    assert_close(log_probs.exp().sum().item(), 1.0, rtol=1e-12, atol=0)
    assert_close(entropy, torch.special.entr(log_probs.exp()).sum().expand_as(entropy), rtol=1e-9, atol=1e-12)
    assert (entropy >= -1e-12).all()
    assert (entropy <= torch.tensor(float(vocabulary)).log() + 1e-6).all()


@light
@given(layers(), st.randoms(use_true_random=False))
def test_tokens_are_independent(layer, random):
    """Permuted they give the same, permuted; more of them, such as padding outside the loss, change nothing."""
    order = list(range(len(layer["labels"])))
    random.shuffle(order)
    values, _ = results(layer)
    moved, _ = results({**layer, "hidden": layer["hidden"][order], "labels": layer["labels"][order]})
    for a, b in zip(moved, values, strict=True):
        assert_close(a, b[order], rtol=1e-9, atol=1e-11)


@light
@given(layers())
def test_padding_outside_the_loss_changes_nothing(layer):
    values, gradients = results(layer)
    hidden = torch.cat([layer["hidden"], torch.full((3, layer["hidden"].shape[1]), 5.0, dtype=torch.float64)])
    hidden.requires_grad_()
    weight = layer["weight"].clone().requires_grad_()
    labels = torch.cat([layer["labels"], torch.zeros(3, dtype=torch.long)])
    log_probs, entropy = linear_log_probs_and_entropy(
        **{**layer, "hidden": hidden, "weight": weight, "labels": labels}
    )
    count = len(layer["labels"])
    tokens = torch.arange(1.0, 1.0 + count, dtype=torch.float64)
    loss = (0.7 * tokens * log_probs[:count]).sum() - (0.3 * tokens * entropy[:count]).sum()
    d_hidden, d_weight = torch.autograd.grad(loss, (hidden, weight))
    assert_close(log_probs[:count].detach(), values[0], rtol=1e-9, atol=1e-11)
    assert_close(d_hidden[:count], gradients["hidden"], rtol=1e-9, atol=1e-10)
    assert_close(d_weight, gradients["weight"], rtol=1e-9, atol=1e-10)
    assert not d_hidden[count:].any()


@light
@given(layers())
def test_parts_of_the_loss_add_up(layer):
    """Only log-probs, only entropy, both; and without the entropy the log-probs are what they were."""
    both, log_probs, entropy = (results(layer, factors=f)[1] for f in ((0.7, -0.3), (0.7, None), (None, -0.3)))
    for name, gradient in both.items():
        assert_close(log_probs[name] + entropy[name], gradient, rtol=1e-9, atol=1e-10)
    values, alone = results(layer, factors=(0.7, None), with_entropy=False)
    assert values[1] is None
    assert_close(values[0], results(layer)[0][0], rtol=1e-12, atol=1e-12)
    for name, gradient in alone.items():
        assert_close(gradient, log_probs[name], rtol=1e-9, atol=1e-10)


@light
@given(layers(), st.sets(st.sampled_from(LEAVES)))
def test_frozen_inputs_change_nothing_for_the_others(layer, frozen):
    values, gradients = results(layer, frozen=frozen)
    all_values, all_gradients = results(layer)
    kept = {name: g for name, g in all_gradients.items() if name not in frozen}
    assert_same((values, gradients), (all_values, kept))
