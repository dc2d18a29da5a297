"""RPG in upstream's loss contract: upstream's own loss and gradient at β = 0, its global means, a step's statistics.

Shapes: B sequences, A action tokens.
"""

import itertools
import math
from types import SimpleNamespace as Namespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import upstream

upstream.make_importable()

from openrlhf.models import PolicyLoss

from rpg_openrlhf.objectives.losses import rpg_token_losses
from rpg_openrlhf.training.policy_loss import RPGPolicyLoss, StepStatistics
from tests.summary import summarize_stats

DUAL_CLIP = 1.5  # low, so that the random weights meet it
THRESHOLDS = {"ratio": [0.8, 1.2], "binary_kl": [0.0, 1e-2], "tv": [0.0, 0.05]}
CORRECTIONS = [
    (level, mode, gating)
    for level, mode, gating in itertools.product(("off", "token", "seq"), ("mask", "clip"), THRESHOLDS)
    # Upstream clips nothing but a token's ratio.
    if mode == "mask" or (level, gating) == ("token", "ratio") or (level, gating) == ("off", "ratio")
]


def arguments(mean="token-mean", correction=("off", "mask", "ratio"), clip=(0.2, 0.28), **rpg) -> Namespace:
    """What RPGPolicyLoss reads of the run's arguments."""
    level, mode, gating = correction
    names = {"divergence": "urkl", "gradient_estimator": "differentiable", "beta": 0.0, "importance_level": "token"}
    names |= {"on_policy": False, "reward_weight": "token", "clip_mode": "gate"}
    return Namespace(
        actor=Namespace(loss_agg_mode=mean, eps_clip_low_high=clip, dual_clip=DUAL_CLIP),
        algo=Namespace(
            advantage=Namespace(
                is_correction_level=level,
                is_correction_mode=mode,
                is_correction_gating=gating,
                is_correction_threshold=THRESHOLDS[gating],
            )
        ),
        rpg=Namespace(**{**names, **rpg}),
    )


def batch(sequences: int = 6, tokens: int = 17, spread: float = 0.3, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random log-probs whose weights pass every clip bound at the default spread, ragged masks; float32, (B, A)."""
    generator = torch.Generator().manual_seed(seed)

    def noise() -> torch.Tensor:
        return torch.randn(sequences, tokens, generator=generator)

    old_log_probs = -0.1 - noise().abs()
    lengths = torch.randint(1, tokens + 1, (sequences, 1), generator=generator)
    return {
        "log_probs": old_log_probs + spread * noise(),
        "old_log_probs": old_log_probs,
        "ref_log_probs": old_log_probs + 0.2 * noise(),
        "advantages": noise()[:, :1].expand(-1, tokens).clone(),
        "action_mask": (torch.arange(tokens) < lengths).long(),
        "rollout_log_probs": old_log_probs + 0.2 * noise(),
    }


def value_and_gradient(loss_fn, data: dict, **loss_batch_info) -> tuple[tuple, torch.Tensor]:
    """The five results, and the gradient of the first by the log-probs; called as upstream's training_step does."""
    log_probs = data["log_probs"].clone().requires_grad_()
    results = loss_fn(
        log_probs,
        data["old_log_probs"],
        data["advantages"],
        action_mask=data["action_mask"],
        rollout_log_probs=data["rollout_log_probs"],
        **loss_batch_info,
    )
    results[0].backward()
    return results, log_probs.grad


def upstreams_loss(mean: str, correction: tuple[str, str, str]) -> PolicyLoss:
    level, mode, gating = correction
    return PolicyLoss(
        clip_eps_low=0.2,
        clip_eps_high=0.28,
        dual_clip=DUAL_CLIP,
        token_level_loss=mean == "token-mean",
        is_correction_level=level,
        is_correction_mode=mode,
        is_correction_gating=gating,
        is_correction_threshold=THRESHOLDS[gating],
    )


GLOBAL_MEANS = [{}, {"dp_size": 2, "batch_num_tokens": 90.0, "global_batch_size": 12.0}]


@pytest.mark.parametrize("loss_batch_info", GLOBAL_MEANS, ids=["local", "global"])
@pytest.mark.parametrize("correction", CORRECTIONS, ids="-".join)
@pytest.mark.parametrize("mean", ["token-mean", "seq-mean-token-mean"])
def test_without_kl_it_is_upstreams_loss(mean, correction, loss_batch_info):
    """β = 0, differentiable: the published clip is PPO's, so all but the logged clip fraction is upstream's."""
    data = batch()
    expected, expected_gradient = value_and_gradient(upstreams_loss(mean, correction), data, **loss_batch_info)
    loss_fn = RPGPolicyLoss(arguments(mean, correction))
    results, gradient = value_and_gradient(loss_fn, data, **loss_batch_info)
    torch.testing.assert_close(results[0], expected[0])
    torch.testing.assert_close(gradient, expected_gradient)
    assert gradient.norm() > 0
    assert len(results) == len(expected) == 5
    torch.testing.assert_close(results[2], expected[2])
    for ours, theirs in zip(
        results[3:], expected[3:], strict=True
    ):  # engine's KL and filtered fraction, None when off
        assert (ours is None) == (theirs is None) == (correction[0] == "off")
        assert ours is None or ours.equal(theirs)


def test_the_random_batch_meets_every_bound():
    """Else the comparisons above prove little: each clip bound and each filter acts on some tokens, not on all."""
    data = batch()
    loss_fn = RPGPolicyLoss(arguments())
    value_and_gradient(loss_fn, data)
    tokens = int(data["action_mask"].sum())
    sums = loss_fn.statistics.sums.tolist()
    assert all(0 < gated < tokens for gated in sums[1:4])
    for gating in THRESHOLDS:
        for level in ("token", "seq"):
            filtered = RPGPolicyLoss(arguments(correction=(level, "mask", gating)))(
                data["log_probs"],
                data["old_log_probs"],
                data["advantages"],
                data["action_mask"],
                data["rollout_log_probs"],
            )[4]
            assert 0 < filtered < 1, (level, gating)


def test_five_results_are_scalars_and_only_the_loss_has_a_gradient():
    results, _ = value_and_gradient(RPGPolicyLoss(arguments(correction=("token", "mask", "ratio"))), batch())
    assert [result.dim() for result in results] == [0] * 5
    assert [result.requires_grad for result in results] == [True, False, False, False, False]


def test_clip_fraction_is_the_share_of_gated_tokens():
    data = batch()
    loss_fn = RPGPolicyLoss(arguments(gradient_estimator="reinforce"))
    results, gradient = value_and_gradient(loss_fn, data)
    stopped = (gradient == 0) & data["action_mask"].bool()
    assert results[1].item() == pytest.approx(stopped.sum().item() / data["action_mask"].sum().item())
    assert stopped.any()


# E_old[c ∇log π_θ] is the objective's gradient; r = w/ρ. Written down from the definitions, not from the code's table.
SCORE_WEIGHTS = {
    "fkl": lambda w, rho, advantage, beta: w * advantage + beta * rho,
    "ufkl": lambda w, rho, advantage, beta: w * advantage - beta * (w - rho),
    "rkl": lambda w, rho, advantage, beta: w * (advantage - beta * ((w / rho).log() + 1)),
    "urkl": lambda w, rho, advantage, beta: w * (advantage - beta * (w / rho).log()),
}


@pytest.mark.parametrize("with_reference", [False, True])
@pytest.mark.parametrize("gradient_estimator", ["differentiable", "reinforce"])
@pytest.mark.parametrize("divergence", SCORE_WEIGHTS)
def test_gradient_inside_the_trust_region(divergence, gradient_estimator, with_reference):
    """Both estimators have the gradient of the objective; the reference is the one bound to the loss, or π_old."""
    data = batch(spread=0.05)
    loss_fn = RPGPolicyLoss(
        arguments(clip=(0.9, 0.9), divergence=divergence, gradient_estimator=gradient_estimator, beta=0.3)
    )
    if with_reference:
        loss_fn.ref_log_probs = data["ref_log_probs"]
    _, gradient = value_and_gradient(loss_fn, data)
    weight = (data["log_probs"] - data["old_log_probs"]).exp()
    rho = (data["ref_log_probs"] - data["old_log_probs"]).exp() if with_reference else torch.ones_like(weight)
    mask = data["action_mask"]
    expected = -SCORE_WEIGHTS[divergence](weight, rho, data["advantages"], 0.3) * mask / mask.sum()
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-7)


def test_sequence_level_shares_one_weight():
    data = batch(spread=0.05)
    data["action_mask"][:] = 1
    data["old_log_probs"] = data["old_log_probs"].double()
    loss_fn = RPGPolicyLoss(
        arguments("seq-mean-token-mean", clip=(0.9, 0.9), importance_level="sequence", gradient_estimator="reinforce")
    )
    results, gradient = value_and_gradient(loss_fn, data)
    weight = (data["log_probs"] - data["old_log_probs"]).sum(-1, keepdim=True).exp()
    expected = -weight * data["advantages"] / data["advantages"].numel()
    torch.testing.assert_close(gradient, expected.float(), rtol=1e-4, atol=1e-7)
    assert results[0].dtype == torch.float64, "computed in the widest dtype given"


def test_nan_in_masked_log_probs_is_harmless():
    """Upstream multiplies by the mask, which leaves NaN where it was."""
    data = batch()
    loss_fn = RPGPolicyLoss(arguments(beta=0.1))
    loss_fn.ref_log_probs = data["ref_log_probs"]
    clean, clean_gradient = value_and_gradient(loss_fn, data)
    padding = data["action_mask"] == 0
    assert padding.any()
    data["log_probs"] = data["log_probs"].masked_fill(padding, math.nan)
    loss_fn.ref_log_probs = data["ref_log_probs"].masked_fill(padding, math.nan)
    dirty, dirty_gradient = value_and_gradient(loss_fn, data)
    assert dirty[0].equal(clean[0])
    assert dirty[1].equal(clean[1])
    assert dirty_gradient.equal(clean_gradient)
    assert loss_fn.statistics.sums.isfinite().all()


@pytest.mark.parametrize("mean", ["token-mean", "seq-mean-token-mean"])
def test_micro_batches_add_up_to_the_whole(mean):
    """With the step's global totals the parts' losses sum to the whole's and the gradients stand side by side."""
    data = batch()
    totals = {"dp_size": 1, "batch_num_tokens": float(data["action_mask"].sum()), "global_batch_size": 6.0}
    loss_fn = RPGPolicyLoss(arguments(mean, beta=0.1, gradient_estimator="reinforce"))
    loss_fn.ref_log_probs = data["ref_log_probs"]
    whole, whole_gradient = value_and_gradient(loss_fn, data, **totals)
    losses, gradients = [], []
    for rows in (slice(0, 1), slice(1, 4), slice(4, 6)):
        part = {name: tensor[rows] for name, tensor in data.items()}
        loss_fn.ref_log_probs = part["ref_log_probs"]
        results, gradient = value_and_gradient(loss_fn, part, **totals)
        losses.append(results[0])
        gradients.append(gradient)
    torch.testing.assert_close(torch.stack(losses).sum(), whole[0])
    torch.testing.assert_close(torch.cat(gradients), whole_gradient)


class Ranks:
    """The collectives of a DeepspeedStrategy, as this rank sees them among `others`."""

    def __init__(self, *others: StepStatistics):
        self.others = others

    def all_reduce(self, data: torch.Tensor, op: str = "mean") -> torch.Tensor:
        every = torch.stack([data, *(rank.sums if op == "sum" else rank.extremes for rank in self.others)])
        return {"sum": every.sum(0), "max": every.amax(0)}[op]


def statistics_of(data: dict, *parts: slice) -> tuple[StepStatistics, dict[str, torch.Tensor]]:
    """Statistics of micro-batches `parts` of `data`, and the per-token statistics of all of it."""
    names = ("log_probs", "old_log_probs", "advantages", "ref_log_probs", "action_mask")
    options = {"divergence": "rkl", "gradient_estimator": "reinforce", "beta": 0.2, "clip_eps_high": 0.28}
    stats = rpg_token_losses(*(data[name] for name in names), **options).stats
    statistics = StepStatistics()
    for part in parts:
        statistics.add({name: values[part] for name, values in stats.items()}, data["action_mask"][part])
    return statistics, stats


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    cuts=st.lists(st.integers(0, 8), max_size=4),
    empty=st.sets(st.integers(0, 7), max_size=6),
)
def test_statistics_do_not_depend_on_how_a_step_is_split(seed, cuts, empty):
    """Parts of any size, on one rank or two, some without a valid token, against the whole batch's formulas."""
    data = batch(8, 5, seed=seed)
    data["action_mask"][sorted(empty)] = 0
    edges = [0, *sorted(cuts), 8]
    parts = [slice(start, stop) for start, stop in itertools.pairwise(edges) if start < stop]
    whole, stats = statistics_of(data, slice(0, 8))
    summary = {f"policy/{name}": value.item() for name, value in summarize_stats(stats, data["action_mask"]).items()}
    assert whole.reduce(Ranks()) == pytest.approx(summary, rel=1e-4, abs=1e-6)
    assert statistics_of(data, *parts)[0].reduce(Ranks()) == pytest.approx(summary, rel=1e-4, abs=1e-6)
    if len(parts) > 1:
        first, second = statistics_of(data, *parts[:1])[0], statistics_of(data, *parts[1:])[0]
        assert first.reduce(Ranks(second)) == pytest.approx(summary, rel=1e-4, abs=1e-6)


def hand_made(weights: list[list[float]]) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Statistics with these weights, 0 standing for a masked token."""
    weight = torch.tensor(weights)
    return {"importance_weight": weight, "gated_low": (weight > 1).float()}, (weight > 0).long()


def test_statistics_of_weights_known_by_hand():
    """Two micro-batches, the second all masked, and another rank."""
    statistics, other = StepStatistics(), StepStatistics()
    statistics.add(*hand_made([[0.5, 1.0], [2.0, 0.0]]))
    statistics.add(*hand_made([[0.0, 0.0]]))
    other.add(*hand_made([[0.25, 4.0]]))
    result = statistics.reduce(Ranks(other))
    weights = [0.5, 1.0, 2.0, 0.25, 4.0]
    assert result["policy/importance_weight_mean"] == sum(weights) / 5
    assert (result["policy/importance_weight_max"], result["policy/importance_weight_min"]) == (4.0, 0.25)
    assert result["policy/effective_sample_size"] == pytest.approx(
        sum(weights) ** 2 / (5 * sum(w * w for w in weights))
    )
    assert result["policy/gated_low"] == pytest.approx(2 / 5)
    assert result["policy/kl_ref_k1"] == 0.0, "not given"
    assert all(math.isfinite(value) for value in result.values())


def test_reduce_starts_afresh():
    statistics = StepStatistics()
    statistics.add(*hand_made([[8.0, 8.0]]))
    statistics.reduce(Ranks())
    statistics.add(*hand_made([[1.0, 2.0]]))
    assert statistics.reduce(Ranks())["policy/importance_weight_max"] == 2.0


def test_loss_counts_every_micro_batch_once():
    loss_fn, data = RPGPolicyLoss(arguments()), batch()
    for _ in range(2):
        value_and_gradient(loss_fn, data)
    assert loss_fn.statistics.sums[-1] == 2 * data["action_mask"].sum()


@pytest.mark.parametrize("divergence", ["fkl", "ufkl", "rkl", "urkl"])
@pytest.mark.parametrize("estimator", ["differentiable", "reinforce"])
def test_on_policy_needs_no_old_log_probs(divergence, estimator):
    """What was not computed is not read: loss and gradient are those with the policy's own log-probs."""
    data = batch()
    rpg = {"divergence": divergence, "gradient_estimator": estimator, "beta": 0.1}
    results = []
    for on_policy, old in ((False, data["log_probs"]), (True, torch.full_like(data["log_probs"], torch.nan))):
        loss_fn = RPGPolicyLoss(arguments(**rpg, on_policy=on_policy))
        loss_fn.ref_log_probs = data["ref_log_probs"]
        results.append(value_and_gradient(loss_fn, data | {"old_log_probs": old}))
    (expected, gradient), (found, found_gradient) = results
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found_gradient, gradient)
    assert found_gradient.abs().sum() > 0


def test_padding_may_hold_nan_through_upstreams_contract():
    """Loss, gradient and every reported number, with the correction for vLLM on and off."""
    inputs = batch()
    padding = ~inputs["action_mask"].bool()
    assert padding.any()
    spoiled = {name: x if name == "action_mask" else x.masked_fill(padding, torch.nan) for name, x in inputs.items()}
    for correction in (("off", "mask", "ratio"), ("token", "mask", "ratio")):
        loss_fn = RPGPolicyLoss(arguments(correction=correction, beta=0.1))
        results = []
        for values in (inputs, spoiled):
            loss_fn.ref_log_probs = values["ref_log_probs"]
            outputs, gradient = value_and_gradient(loss_fn, values)
            results.append([gradient, *(x for x in outputs if x is not None)])
        for clean, dirty in zip(*results, strict=True):
            torch.testing.assert_close(dirty, clean, rtol=0, atol=0)
            assert torch.isfinite(dirty).all()
