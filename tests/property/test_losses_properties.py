"""Invariants of the losses and of their gradients, on random batches; float64. Shapes: (B, A)."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from rpg_openrlhf.objectives.divergences import DIVERGENCES
from rpg_openrlhf.objectives.losses import GRADIENT_ESTIMATORS, IMPORTANCE_LEVELS, rpg_token_losses
from tests.summary import summarize_stats

torch.set_num_threads(1)
light = settings(max_examples=60, deadline=None, derandomize=True)

CLIP = {"clip_eps_low": 0.2, "clip_eps_high": 0.28, "dual_clip": 3.0}

options_strategy = st.fixed_dictionaries(
    {
        "divergence": st.sampled_from(tuple(DIVERGENCES)),
        "gradient_estimator": st.sampled_from(GRADIENT_ESTIMATORS),
        "importance_level": st.sampled_from(IMPORTANCE_LEVELS),
        "beta": st.sampled_from((0.0, 1e-4, 0.1, 2.0)),
    }
)
clip_strategy = st.sampled_from(({}, CLIP))


@st.composite
def batches(draw, columns=None, mask=True):
    """log_probs, old_log_probs, advantages (B, 1), ref_log_probs or None, action_mask or all ones."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    shape = draw(st.integers(1, 5)), columns or draw(st.integers(1, 6))

    def normal(*size):
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    spread = draw(st.sampled_from((0.01, 0.3, 2.0)))
    old = -normal(*shape).abs()
    ref = old + spread * normal(*shape) if draw(st.booleans()) else None
    valid = torch.rand(*shape, generator=generator) < 0.7 if mask else torch.ones(shape, dtype=torch.bool)
    return [old + spread * normal(*shape), old, normal(shape[0], 1), ref, valid]


def losses_and_gradient(inputs, **options):
    log_probs, *others = inputs
    log_probs = log_probs.clone().requires_grad_()
    result = rpg_token_losses(log_probs, *others, **options)
    (gradient,) = torch.autograd.grad(result.losses.sum(), log_probs)
    return result.losses.detach(), gradient, result.stats


def per_input(function, inputs):
    return [None if x is None else function(x) for x in inputs]


@light
@given(batches(), options_strategy, clip_strategy, st.randoms(use_true_random=False))
def test_sequences_are_independent(inputs, options, clip, random):
    """Permuting the batch permutes everything; a sequence alone has the loss it has in company."""
    order = list(range(len(inputs[0])))
    random.shuffle(order)
    losses, gradient, stats = losses_and_gradient(inputs, **options, **clip)
    permuted = losses_and_gradient(per_input(lambda x: x[order], inputs), **options, **clip)
    assert_close(permuted, (losses[order], gradient[order], {name: x[order] for name, x in stats.items()}))
    alone = losses_and_gradient(per_input(lambda x: x[:1], inputs), **options, **clip)
    assert_close(alone, (losses[:1], gradient[:1], {name: x[:1] for name, x in stats.items()}))


@light
@given(batches(), options_strategy, clip_strategy, st.integers(1, 3), st.booleans())
def test_padding_changes_nothing(inputs, options, clip, extra, left):
    def pad(x):
        filler = torch.full((len(x), extra), False if x.dtype == torch.bool else torch.nan, dtype=x.dtype)
        return torch.cat([filler, x] if left else [x, filler], dim=1)

    inputs[2] = inputs[2].expand_as(inputs[0])
    losses, gradient, stats = losses_and_gradient(inputs, **options, **clip)
    wide = losses_and_gradient(per_input(pad, inputs), **options, **clip)
    kept = slice(extra, None) if left else slice(0, losses.shape[1])
    assert_close(wide[0][:, kept], losses)
    assert_close(wide[1][:, kept], gradient)
    assert_close({name: x[:, kept] for name, x in wide[2].items()}, stats)
    assert_close(wide[0].sum(-1), losses.sum(-1))
    assert_close(wide[1].abs().sum(-1), gradient.abs().sum(-1))


@light
@given(batches(), options_strategy, clip_strategy, st.sampled_from((0.0, -7.0, torch.inf, -torch.inf, torch.nan)))
def test_masked_content_is_irrelevant(inputs, options, clip, content):
    *values, mask = inputs
    values[2] = values[2].expand_as(values[0])
    spoiled = [*per_input(lambda x: x.masked_fill(~mask, content), values), mask]
    clean, other = (losses_and_gradient(x, **options, **clip) for x in (inputs, spoiled))
    # The masked advantages are no part of the mean over a sequence either, but its sum may round differently.
    assert_close(other, clean, rtol=1e-12, atol=1e-12)
    assert (other[0][~mask] == 0).all()
    assert (other[1][~mask] == 0).all()


@light
@given(batches(), options_strategy)
def test_the_kl_part_is_linear_in_beta(inputs, options):
    def gradient(beta):
        return losses_and_gradient(inputs, **(options | {"beta": beta}))[1]

    assert_close(gradient(0.6) - gradient(0.0), 3 * (gradient(0.2) - gradient(0.0)), rtol=1e-9, atol=1e-9)


@light
@given(batches(), options_strategy)
def test_without_kl_the_gradient_scales_with_the_advantages(inputs, options):
    options["beta"] = 0.0
    losses, gradient, _ = losses_and_gradient(inputs, **options, **CLIP)
    inputs[2] = 2.5 * inputs[2]
    assert_close(losses_and_gradient(inputs, **options, **CLIP)[:2], (2.5 * losses, 2.5 * gradient))


@light
@given(batches(), options_strategy, clip_strategy)
def test_on_policy_the_unnormalized_forms_have_no_kl_gradient(inputs, options, clip):
    """At π_θ = π_ref = π_old: exactly zero for U forms (the control variate), ±β for the normalized ones."""
    inputs[0], inputs[2], inputs[3] = inputs[1], torch.zeros_like(inputs[2]), None
    _, gradient, _ = losses_and_gradient(inputs, **options, **clip)
    per_token = {"fkl": -1.0, "ufkl": 0.0, "rkl": 1.0, "urkl": 0.0}[options["divergence"]] * options["beta"]
    assert torch.equal(gradient, per_token * inputs[4].double())


@light
@given(batches(), options_strategy, clip_strategy)
def test_no_reference_is_a_reference_equal_to_old(inputs, options, clip):
    inputs[3] = None
    implicit = losses_and_gradient(inputs, **options, **clip)
    inputs[3] = inputs[1]
    assert_close(losses_and_gradient(inputs, **options, **clip), implicit)


@light
@given(batches(columns=1), options_strategy, clip_strategy)
def test_a_sequence_of_one_token_is_a_token(inputs, options, clip):
    token, sequence, prefix = (
        losses_and_gradient(inputs, **(options | {"importance_level": level}), **clip) for level in IMPORTANCE_LEVELS
    )
    assert_close(token, sequence)
    assert_close(token, prefix)


@light
@given(batches(mask=False), options_strategy, clip_strategy)
def test_a_sequence_is_one_token_of_the_summed_log_probs(inputs, options, clip):
    """The sum of a sequence's losses is the token loss of the whole, whose gradient every token receives."""
    options["importance_level"] = "sequence"
    losses, gradient, _ = losses_and_gradient(inputs, **options, **clip)
    log_probs, old, advantages, ref, _ = inputs
    whole = per_input(lambda x: x.sum(-1, keepdim=True), (log_probs, old, ref))
    one_token = [whole[0], whole[1], advantages, whole[2], None]
    options["importance_level"] = "token"
    expected_loss, expected_gradient, _ = losses_and_gradient(one_token, **options, **clip)
    assert_close(losses.sum(-1, keepdim=True), expected_loss, rtol=1e-9, atol=1e-9)
    assert_close(gradient, expected_gradient.expand_as(gradient), rtol=1e-9, atol=1e-9)


@light
@given(batches(), options_strategy, clip_strategy)
def test_unequal_advantages_of_a_sequence_are_averaged_over_valid_tokens(inputs, options, clip):
    options["importance_level"] = "sequence"
    mask = inputs[4]
    advantages = torch.linspace(-1, 2, mask.numel(), dtype=torch.float64).view(mask.shape)
    inputs[2] = advantages
    mixed = losses_and_gradient(inputs, **options, **clip)
    inputs[2] = (advantages * mask).sum(-1, keepdim=True) / mask.sum(-1, keepdim=True).clamp(min=1)
    assert_close(mixed, losses_and_gradient(inputs, **options, **clip), rtol=1e-9, atol=1e-9)


@light
@given(batches(), options_strategy)
def test_clipping_touches_only_what_the_gates_report(inputs, options):
    """An open gate leaves the gradient as it is; at a shut one reinforce has none. At most one of three is shut."""
    _, clipped, stats = losses_and_gradient(inputs, **options, **CLIP)
    _, unclipped, _ = losses_and_gradient(inputs, **options)
    gates = stats["gated_low"] + stats["gated_high"] + stats["gated_dual"]
    assert set(gates.unique().tolist()) <= {0.0, 1.0}
    assert_close(clipped[gates == 0], unclipped[gates == 0])
    if options["gradient_estimator"] == "reinforce":
        assert (clipped[gates == 1] == 0).all()
        signed = stats["regularized_advantage"]
    else:
        signed = inputs[2].expand_as(gates)
    w, mask, negative = stats["importance_weight"], inputs[4], signed < 0
    assert torch.equal(stats["gated_low"].bool(), mask & negative & (w <= 0.8))
    assert torch.equal(stats["gated_high"].bool(), mask & ~negative & (w >= 1.28))
    assert torch.equal(stats["gated_dual"].bool(), mask & negative & (w >= 3.0))


@light
@given(batches(), options_strategy)
def test_unclipped_reinforce_gradient_is_the_reported_weight_times_regularized_advantage(inputs, options):
    """The statistics are those of the loss: d loss / d log π_θ = -w·Â, for both estimators."""
    _, gradient, stats = losses_and_gradient(inputs, **options)
    expected = -stats["importance_weight"] * stats["regularized_advantage"]
    assert_close(gradient, expected, rtol=1e-9, atol=1e-9)


@light
@given(batches(), options_strategy)
def test_k3_statistics_are_never_negative(inputs, options):
    _, _, stats = losses_and_gradient(inputs, **options)
    assert stats["kl_old_k3"].min() >= -1e-15
    assert stats["kl_ref_k3"].min() >= -1e-15


@light
@given(batches(), options_strategy, clip_strategy)
def test_summary_is_that_of_the_valid_tokens(inputs, options, clip):
    _, _, stats = losses_and_gradient(inputs, **options, **clip)
    mask = inputs[4]
    summary = summarize_stats(stats, mask)
    assert all(value.shape == () and value.isfinite() for value in summary.values())
    if not mask.any():
        assert set(map(float, summary.values())) == {0.0}
        return
    w = stats["importance_weight"][mask]
    expected = {name: values[mask].mean() for name, values in stats.items() if name != "importance_weight"}
    expected |= {f"importance_weight_{name}": getattr(w, name)() for name in ("mean", "max", "min")}
    expected |= {"effective_sample_size": w.sum() ** 2 / (len(w) * (w**2).sum())}
    assert_close(summary, expected)
    assert summary["effective_sample_size"] <= 1 + 1e-12
