"""The output layer's log-probs, entropy and gradients against dense float64, and what rounding does to them."""

import itertools

import pytest
import torch
from torch.testing import assert_close

from rpg_openrlhf.objectives.log_probs import _differentiate, _fold, linear_log_probs_and_entropy

torch.set_num_threads(1)
NAMES = ("log_probs", "entropy", "hidden", "weight", "bias")


def inputs(tokens: int, size: int, vocabulary: int, dtype=torch.float64, scale: float = 1.0, seed: int = 0):
    """hidden, weight, labels, bias; logits of some `scale`."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(tokens, size, generator=generator, dtype=torch.float64)
    weight = scale * torch.randn(vocabulary, size, generator=generator, dtype=torch.float64) / size**0.5
    bias = torch.randn(vocabulary, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, vocabulary, (tokens,), generator=generator)
    return hidden.to(dtype), weight.to(dtype), labels, bias.to(dtype)


def dense(hidden, weight, labels, temperature, bias):
    """The definition."""
    log_p = (torch.nn.functional.linear(hidden, weight, bias) / temperature).log_softmax(-1)
    return log_p.gather(1, labels.unsqueeze(1)).squeeze(1), torch.special.entr(log_p.exp()).sum(1)


def results(function, hidden, weight, labels, bias, temperature=1.0, **options) -> dict[str, torch.Tensor]:
    """Values, and gradients of a loss that weighs every token's log-prob and entropy differently."""
    leaves = [x.detach().clone().requires_grad_() for x in (hidden, weight, bias)]
    log_probs, entropy = function(leaves[0], leaves[1], labels, temperature, leaves[2], **options)
    generator = torch.Generator().manual_seed(7)
    factors = [torch.randn(len(labels), generator=generator, dtype=torch.float64) for _ in range(2)]
    loss = sum((x * f.to(x.dtype)).sum() for x, f in zip((log_probs, entropy), factors, strict=True))
    values = [log_probs.detach(), entropy.detach(), *torch.autograd.grad(loss, leaves)]
    return dict(zip(NAMES, values, strict=True))


def errors(found: dict, expected: dict) -> dict[str, float]:
    """Relative to the norm."""
    return {name: float((found[name].double() - x).norm() / x.norm()) for name, x in expected.items()}


@pytest.mark.parametrize(("temperature", "tile"), list(itertools.product([1.0, 0.6, 1.7], [1, 7 * 64, 10**6])))
def test_float64_is_exact(temperature, tile):
    given = inputs(7, 12, 301)
    found = results(linear_log_probs_and_entropy, *given, temperature=temperature, tile_elements=tile)
    expected = results(dense, *given, temperature=temperature)
    for name in NAMES:
        assert_close(found[name], expected[name], rtol=1e-12, atol=1e-13)


def test_gradients_are_those_of_finite_differences():
    """No formula of ours on either side."""
    hidden, weight, labels, bias = inputs(3, 4, 11)
    leaves = [x.requires_grad_() for x in (hidden, weight, bias)]

    def function(hidden, weight, bias):
        return linear_log_probs_and_entropy(hidden, weight, labels, 0.8, bias, tile_elements=3 * 4)

    assert torch.autograd.gradcheck(function, leaves)


@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
def test_float32_within_1e_5_of_float64(scale):
    """Qwen3's vocabulary, from a flat distribution to one that is all but certain."""
    hidden, weight, labels, bias = inputs(24, 32, 151_936, torch.float32, scale)
    found = results(linear_log_probs_and_entropy, hidden, weight, labels, bias, temperature=1.3)
    exact = [x.double() for x in (hidden, weight)]
    expected = results(dense, *exact, labels, bias.double(), temperature=1.3)
    assert all(x.dtype == torch.float32 for x in found.values())
    assert max(errors(found, expected).values()) < 1e-5, errors(found, expected)


def test_bfloat16_is_no_worse_than_a_dense_layer():
    """Logits are rounded to bfloat16 by either; log-probs and entropy come in float32 by either."""
    hidden, weight, labels, bias = inputs(256, 64, 4096, torch.bfloat16, 3.0)
    expected = results(dense, hidden.double(), weight.double(), labels, bias.double())

    def upstream(hidden, weight, labels, temperature, bias):
        log_p = (torch.nn.functional.linear(hidden, weight, bias).float() / temperature).log_softmax(-1)
        return log_p.gather(1, labels.unsqueeze(1)).squeeze(1), -(log_p.exp() * log_p).sum(1)

    found = results(linear_log_probs_and_entropy, hidden, weight, labels, bias, tile_elements=256 * 64)
    assert found["log_probs"].dtype == found["entropy"].dtype == torch.float32
    ours = errors(found, expected)
    theirs = errors(results(upstream, hidden, weight, labels, bias), expected)
    for name in NAMES:
        assert ours[name] < 1.1 * theirs[name] + 1e-4, (name, ours[name], theirs[name])


@pytest.mark.parametrize("tile", [2**18, 2**20, 2**22])
def test_bfloat16_does_not_drift_with_the_number_of_tiles(tile):
    """Chunks of tokens added up in bfloat16 lose the weight's gradient by and by: 6e-3 here, against 2.6e-3."""
    hidden, weight, labels, bias = inputs(1024, 32, 4096, torch.bfloat16)
    expected = results(dense, hidden.double(), weight.double(), labels, bias.double())
    found = results(linear_log_probs_and_entropy, hidden, weight, labels, bias, tile_elements=tile)
    assert errors(found, expected)["weight"] < 3e-3
    assert errors(found, expected)["hidden"] < 4e-3
    by_chunks = torch.zeros_like(weight)
    for rows in torch.arange(1024).split(8):
        leaf = weight.clone().requires_grad_()
        log_probs, entropy = linear_log_probs_and_entropy(hidden[rows], leaf, labels[rows], 1.0, bias)
        generator = torch.Generator().manual_seed(7)
        factors = [torch.randn(1024, generator=generator, dtype=torch.float64).float() for _ in range(2)]
        ((log_probs * factors[0][rows]).sum() + (entropy * factors[1][rows]).sum()).backward()
        by_chunks += leaf.grad
    assert errors({"weight": by_chunks}, {"weight": expected["weight"]})["weight"] > 5e-3


def test_a_certain_label_keeps_its_gradient_in_bfloat16():
    """1 - p is 1e-3 there: taken from p rounded to bfloat16 it would be 0 or 4e-3."""
    weight = torch.tensor([[1.0], [0.0]], dtype=torch.bfloat16)
    hidden = torch.tensor([[6.9]], dtype=torch.bfloat16, requires_grad=True)
    log_probs, _ = linear_log_probs_and_entropy(hidden, weight, torch.tensor([0]), with_entropy=False)
    (gradient,) = torch.autograd.grad(log_probs.sum(), hidden)
    assert gradient.item() == pytest.approx(torch.sigmoid(-hidden.double()).item(), rel=8e-3)


LARGE = float(torch.finfo(torch.float32).max)
EXTREMES = {
    "forbidden": [0.0, -torch.inf, 1.0, -torch.inf],
    "forbidden first tile": [-torch.inf, -torch.inf, 0.5, 1.0],
    "one possible": [-torch.inf, -torch.inf, 3.0, -torch.inf],
    "certain": [0.0, 1e4, 0.0, -1e4],
    "offset": [1e4, 1e4 + 1, 1e4 - 1, 1e4],
    "largest": [-LARGE, LARGE, 0.0, -LARGE],
    "equal": [0.0] * 4,
}


@pytest.mark.parametrize("name", EXTREMES)
@pytest.mark.parametrize("tile", [1, 10])
def test_extreme_logits(name, tile):
    """Through the bias, one column or two a tile; nothing is NaN where the distribution is defined."""
    bias = torch.tensor(EXTREMES[name])
    exact = bias.double() - bias.double().max()
    expected_log_p = exact.log_softmax(0)
    labels = torch.arange(4)[exact > -300]
    hidden = torch.zeros(len(labels), 2, requires_grad=True)
    weight = torch.ones(4, 2, requires_grad=True)
    leaf = bias.clone().requires_grad_()
    log_probs, entropy = linear_log_probs_and_entropy(hidden, weight, labels, 1.0, leaf, tile_elements=tile)
    assert_close(log_probs.double(), expected_log_p[labels], rtol=1e-6, atol=1e-6)
    assert_close(
        entropy.double(), torch.special.entr(expected_log_p.exp()).sum().expand(len(labels)), rtol=1e-5, atol=1e-6
    )
    gradients = torch.autograd.grad((log_probs + entropy).sum(), (hidden, weight, leaf))
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    assert_close(gradients[2].sum().item(), 0.0, rtol=0, atol=1e-5)


def test_a_forbidden_label_has_no_probability():
    bias = torch.tensor([0.0, -torch.inf])
    hidden = torch.zeros(1, 2, requires_grad=True)
    log_probs, entropy = linear_log_probs_and_entropy(hidden, torch.ones(2, 2), torch.tensor([1]), 1.0, bias)
    assert (log_probs.item(), entropy.item()) == (-torch.inf, 0)


@pytest.mark.parametrize("label", [-100, -1, 5])
def test_a_label_outside_the_vocabulary_is_noticed(label):
    hidden, weight, _, bias = inputs(2, 4, 5)
    log_probs, _ = linear_log_probs_and_entropy(hidden, weight, torch.tensor([label, 4]), 1.0, bias, tile_elements=4)
    assert log_probs.isnan().tolist() == [True, False]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_cuda_compiles_is_what_a_cpu_computes(dtype):
    """The element-wise steps, traced with any shape and without memory to work in; the kernels need no check here."""
    fold, differentiate = (
        torch.compile(step, dynamic=True, backend="aot_eager", fullgraph=True) for step in (_fold, _differentiate)
    )
    for tokens, columns in ((5, 70), (9, 33)):
        generator = torch.Generator().manual_seed(tokens)
        logits = torch.randn(tokens, columns, generator=generator).to(dtype)
        rows = [torch.randn(tokens, generator=generator) for _ in range(5)]
        peak, total, weighted, base, slope = rows[0], rows[1].exp(), rows[2], rows[3], rows[4]
        spare = torch.empty(tokens, columns)
        wide = torch.empty(tokens, columns) if dtype != torch.float32 else None
        for more in (weighted, None):
            expected = _fold(logits.clone(), wide, spare, 0.7, peak, total, more)
            found = fold(logits.clone(), None, None, 0.7, peak, total, more)
            assert_close([x for x in found if x is not None], [x for x in expected if x is not None])
        for more in (slope, None):
            expected, found = logits.clone(), logits.clone()
            _differentiate(expected, wide, spare, 0.7, peak, base, more)
            differentiate(found, None, None, 0.7, peak, base, more)
            assert_close(found, expected)
            assert not torch.equal(found, logits)
