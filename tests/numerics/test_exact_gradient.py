"""The losses' gradients against enumeration, against the paper's tables, and against each other; float64."""

import math
from itertools import product

import pytest
import torch

from rpg_openrlhf.objectives.divergences import DIVERGENCES
from rpg_openrlhf.objectives.losses import GRADIENT_ESTIMATORS, rpg_token_losses
from tests import oracle

torch.set_num_threads(1)

EPS_LOW, EPS_HIGH, DUAL = 0.2, 0.28, 3.0

# C/β by hand, from the table of score weights; w and ρ are numbers.
SCORE_WEIGHTS = {
    "fkl": lambda w, rho: rho,
    "ufkl": lambda w, rho: -(w - rho),
    "rkl": lambda w, rho: -w * (math.log(w / rho) + 1),
    "urkl": lambda w, rho: -w * math.log(w / rho),
}


def gradients(log_weight, advantages, log_reference_weight=None, old=-1.3, **options):
    """d losses.sum() / d log_probs at the given log w and log ρ; lists of lists (B, A)."""
    log_weight = torch.tensor(log_weight, dtype=torch.float64)
    old_log_probs = torch.full_like(log_weight, old)
    ref_log_probs = None
    if log_reference_weight is not None:
        ref_log_probs = old_log_probs + torch.tensor(log_reference_weight, dtype=torch.float64)
    log_probs = (old_log_probs + log_weight).requires_grad_()
    advantages = torch.tensor(advantages, dtype=torch.float64)
    losses = rpg_token_losses(log_probs, old_log_probs, advantages, ref_log_probs, **options).losses
    return torch.autograd.grad(losses.sum(), log_probs)[0]


@pytest.mark.parametrize("combination", oracle.combinations(), ids=lambda row: "-".join(map(str, row)))
def test_expected_gradient_is_that_of_the_objective(combination):
    assert oracle.worst_error(*combination) < oracle.TOLERANCE


@pytest.mark.parametrize("level", oracle.IMPORTANCE_LEVELS)
@pytest.mark.parametrize("divergence", oracle.DIVERGENCES)
def test_the_oracle_sees_a_wrong_divergence(divergence, level):
    """The tolerance means something: with a reference of mass 0.6, the other direction's gradient is far away."""
    problem = (oracle.categorical if level == "token" else oracle.autoregressive)(0, oracle.REFERENCES[2])
    options = {"gradient_estimator": "reinforce", "importance_level": level, "beta": 0.3}
    estimate = problem.estimated_gradient(divergence=divergence, **options)
    for other in ("rkl", "urkl") if divergence in ("fkl", "ufkl") else ("fkl", "ufkl"):
        assert (estimate + problem.true_gradient(other, 0.3)).abs().max() > 1e-3


@pytest.mark.parametrize("divergence", oracle.DIVERGENCES)
def test_surrogate_is_minus_the_antiderivative_of_the_score_weight(divergence):
    log_probs = torch.linspace(-6, -0.1, 40, dtype=torch.float64).requires_grad_()
    log_weight, log_reference_weight = log_probs + 1.7, torch.linspace(-2, 2, 40, dtype=torch.float64)
    ratios = (log_weight.exp(), log_reference_weight.exp(), log_weight - log_reference_weight)
    surrogate = DIVERGENCES[divergence].surrogate(*ratios, log_probs)
    (derivative,) = torch.autograd.grad(surrogate.sum(), log_probs)
    torch.testing.assert_close(derivative, -DIVERGENCES[divergence].score_weight(*(x.detach() for x in ratios)))


def edges():
    """(w, region): inside each region and on its bounds, which are w itself and so hit exactly."""
    low, high = math.exp(math.log(1 - EPS_LOW)), math.exp(math.log(1 + EPS_HIGH))
    inside = [0.3, 0.79, 0.81, 0.95, 1.0, 1.1, 1.27, 1.29, 2.9, 3.1, 40.0]
    return [*inside, low, high, math.exp(math.log(DUAL))]


def table_stops(w, sign, low, high, dual):
    """The clip table of RPG-Style dual clip, row by row: which bound stops the gradient, or None."""
    if sign >= 0:
        return "high" if w >= high else None
    if w <= low:
        return "low"
    return "dual" if w >= dual else None


@pytest.mark.parametrize("level", oracle.IMPORTANCE_LEVELS)
@pytest.mark.parametrize("estimator", GRADIENT_ESTIMATORS)
@pytest.mark.parametrize("divergence", oracle.DIVERGENCES)
def test_every_clip_region_has_the_gradient_of_the_table(divergence, estimator, level):
    beta, log_rho = 0.15, -0.2
    seen = set()
    for target, advantage in product(edges(), (2.0, 1e-3, 0.0, -1e-3, -2.0)):
        x = math.log(target)
        w = float(torch.tensor(x, dtype=torch.float64).add(-1.3).sub(-1.3).exp())  # as the loss will see it
        # Each bound is put on w where the two are meant to meet; 1 - (1 - w) and 1 + (w - 1) are exact there.
        low = w if math.isclose(w, 1 - EPS_LOW, rel_tol=1e-9) else 1 - EPS_LOW
        high = w if math.isclose(w, 1 + EPS_HIGH, rel_tol=1e-9) else 1 + EPS_HIGH
        dual = w if math.isclose(w, DUAL, rel_tol=1e-9) else DUAL
        options = {"divergence": divergence, "gradient_estimator": estimator, "beta": beta, "importance_level": level}
        bounds = {"clip_eps_low": 1 - low, "clip_eps_high": high - 1, "dual_clip": dual}
        actual = gradients([[x]], [[advantage]], [[log_rho]], **options, **bounds).item()
        kl = beta * SCORE_WEIGHTS[divergence](w, math.exp(log_rho))
        sign = advantage if estimator == "differentiable" else advantage + kl / w
        stop = table_stops(w, sign, low, high, dual)
        seen.add((sign >= 0, stop))
        if estimator == "differentiable":  # the clip acts on the reward part alone
            expected = -kl - (0.0 if stop else w * advantage)
        else:
            expected = 0.0 if stop else -(w * advantage + kl)
        assert actual == pytest.approx(expected, rel=1e-12, abs=1e-12), (target, advantage)
    assert seen == {(True, None), (True, "high"), (False, None), (False, "low"), (False, "dual")}


@pytest.mark.parametrize(("w", "advantage"), [(0.8, -1.0), (1.28, 1.0), (3.0, -1.0)])
@pytest.mark.parametrize("estimator", GRADIENT_ESTIMATORS)
def test_the_bound_itself_is_outside(w, advantage, estimator):
    """At w = bound the gradient is zero, one part in 10^9 inside it is not."""
    options = {"divergence": "urkl", "gradient_estimator": estimator, "beta": 0.0}
    weight = float(torch.tensor(math.log(w), dtype=torch.float64).exp())  # as the loss will see it
    bound = {0.8: {"clip_eps_low": 1 - weight}, 1.28: {"clip_eps_high": weight - 1}, 3.0: {"dual_clip": weight}}[w]
    bounds = {"clip_eps_low": EPS_LOW, "clip_eps_high": EPS_HIGH, "dual_clip": DUAL} | bound
    for inward, stopped in ((0.0, True), (-1e-9 if w > 1 else 1e-9, False)):
        actual = gradients([[math.log(w) + inward]], [[advantage]], old=0.0, **options, **bounds).item()
        assert (actual == 0) is stopped


@pytest.mark.parametrize("estimator", GRADIENT_ESTIMATORS)
def test_a_sequence_is_gated_as_a_whole(estimator):
    """Tokens inside the bounds stop together when their product is outside; only the product counts."""
    options = {"divergence": "urkl", "gradient_estimator": estimator, "beta": 0.0, "importance_level": "sequence"}
    bounds = {"clip_eps_low": EPS_LOW, "clip_eps_high": EPS_HIGH}
    actual = gradients([[0.2, 0.2], [1.0, -1.0]], [[1.0], [1.0]], **options, **bounds)
    torch.testing.assert_close(actual, torch.tensor([[0.0, 0.0], [-1.0, -1.0]], dtype=torch.float64))


@pytest.mark.parametrize("level", oracle.IMPORTANCE_LEVELS)
@pytest.mark.parametrize("divergence", oracle.DIVERGENCES)
def test_estimators_agree_inside_the_trust_region(divergence, level):
    """Sample by sample, not only in expectation."""
    generator = torch.Generator().manual_seed(0)
    log_weight = (torch.rand(50, 3, generator=generator) * 0.12 - 0.06).tolist()
    advantages = torch.randn(50, 1, generator=generator).tolist()
    log_rho = torch.randn(50, 3, generator=generator).tolist()
    options = {"divergence": divergence, "beta": 0.1, "importance_level": level}
    bounds = {"clip_eps_low": EPS_LOW, "clip_eps_high": EPS_HIGH, "dual_clip": DUAL}
    both = [
        gradients(log_weight, advantages, log_rho, gradient_estimator=estimator, **options, **bounds)
        for estimator in GRADIENT_ESTIMATORS
    ]
    torch.testing.assert_close(both[0], both[1], rtol=1e-11, atol=1e-12)
    assert both[0].abs().min() > 0


def ppo_dual_clip(w, a_hat, low, high, dual):
    """PPO's dual clip objective to minimize (arXiv 1912.09729), of tensors."""
    clipped = torch.min(w * a_hat, w.clamp(low, high) * a_hat)
    return -torch.where(a_hat < 0, torch.max(clipped, dual * a_hat), clipped)


def algorithm_2(w, a_hat, low, high, dual):
    """Coefficient of -log π_θ in the branches of Algorithm 2, of numbers."""
    if a_hat >= 0:
        return w * a_hat if w < high else 0.0
    if w >= dual or w <= low:
        return 0.0
    return w * a_hat


@pytest.mark.parametrize("divergence", oracle.DIVERGENCES)
def test_algorithm_2_is_ppo_dual_clip_with_a_detached_regularized_advantage(divergence):
    generator = torch.Generator().manual_seed(1)
    log_weight = torch.randn(1, 400, generator=generator, dtype=torch.float64)
    advantages = torch.randn(1, 400, generator=generator, dtype=torch.float64)
    beta, bounds = 0.2, (1 - EPS_LOW, 1 + EPS_HIGH, DUAL)
    options = {"clip_eps_low": EPS_LOW, "clip_eps_high": EPS_HIGH, "dual_clip": DUAL, "beta": beta}
    options |= {"divergence": divergence, "gradient_estimator": "reinforce"}
    actual = gradients(log_weight.tolist(), advantages.tolist(), **options)

    weights = log_weight[0].exp().tolist()
    c_over_w = [beta * SCORE_WEIGHTS[divergence](w, 1.0) / w for w in weights]
    a_hat = advantages + torch.tensor([c_over_w], dtype=torch.float64)
    branches = [-algorithm_2(w, a, *bounds) for w, a in zip(weights, a_hat[0].tolist(), strict=True)]
    leaf = log_weight.clone().requires_grad_()
    (ppo,) = torch.autograd.grad(ppo_dual_clip(leaf.exp(), a_hat, *bounds).sum(), leaf)
    torch.testing.assert_close(ppo, torch.tensor([branches], dtype=torch.float64), rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(actual, ppo, rtol=1e-11, atol=1e-12)
    assert 0 < (ppo == 0).sum() < 400


def test_the_differentiable_reward_part_has_ppos_value_in_every_region():
    generator = torch.Generator().manual_seed(2)
    log_weight, advantages = torch.randn(2, 1, 400, generator=generator, dtype=torch.float64)
    bounds = {"clip_eps_low": EPS_LOW, "clip_eps_high": EPS_HIGH, "dual_clip": DUAL}
    options = {"divergence": "rkl", "gradient_estimator": "differentiable", "beta": 0.0}
    losses = rpg_token_losses(log_weight, torch.zeros_like(log_weight), advantages, **options, **bounds).losses
    expected = ppo_dual_clip(log_weight.exp(), advantages, 1 - EPS_LOW, 1 + EPS_HIGH, DUAL)
    torch.testing.assert_close(losses, expected)


@pytest.mark.parametrize("estimator", GRADIENT_ESTIMATORS)
def test_a_zero_advantage_counts_as_not_negative(estimator):
    """The gradient is zero either way; the reported gate follows the table's A ≥ 0."""
    log_probs = torch.tensor([[math.log(0.5), math.log(2.0), math.log(5.0)]], dtype=torch.float64)
    bounds = {"clip_eps_low": EPS_LOW, "clip_eps_high": EPS_HIGH, "dual_clip": DUAL}
    options = {"divergence": "rkl", "gradient_estimator": estimator, "beta": 0.0}
    zeros = torch.zeros_like(log_probs)
    stats = rpg_token_losses(log_probs, zeros, zeros, **options, **bounds).stats
    gates = {name: stats[f"gated_{name}"].tolist() for name in ("low", "high", "dual")}
    assert gates == {"low": [[0, 0, 0]], "high": [[0, 1, 1]], "dual": [[0, 0, 0]]}


def test_a_gradient_through_the_regularized_advantage_is_not_the_objectives():
    """Algorithm 1 as printed makes RKL's score weight w(R - b - β(log w + 1) - β); the last β is too much."""
    x, advantage, beta = 0.3, 0.7, 0.2
    leaf = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    (printed,) = torch.autograd.grad(-leaf.exp() * (advantage - beta * (leaf + 1)), leaf)
    for estimator in GRADIENT_ESTIMATORS:
        ours = gradients([[x]], [[advantage]], divergence="rkl", gradient_estimator=estimator, beta=beta).item()
        assert ours == pytest.approx(-math.exp(x) * (advantage - beta * (x + 1)), rel=1e-12)
        assert printed.item() - ours == pytest.approx(beta * math.exp(x), rel=1e-12)


@pytest.mark.parametrize("level", oracle.IMPORTANCE_LEVELS)
@pytest.mark.parametrize("estimator", GRADIENT_ESTIMATORS)
@pytest.mark.parametrize("divergence", oracle.DIVERGENCES)
def test_only_the_trained_policy_receives_gradient(divergence, estimator, level):
    inputs = [torch.randn(3, 4, dtype=torch.float64, requires_grad=True) for _ in range(4)]
    result = rpg_token_losses(
        *inputs, divergence=divergence, gradient_estimator=estimator, beta=0.1, importance_level=level
    )
    trained, *constants = torch.autograd.grad(result.losses.sum(), inputs, allow_unused=True)
    assert trained.abs().min() > 0
    assert constants == [None, None, None]
    assert not any(values.requires_grad for values in result.stats.values())


@pytest.mark.parametrize("level", oracle.IMPORTANCE_LEVELS)
@pytest.mark.parametrize("reference", oracle.REFERENCES)
def test_kl_statistics_are_unbiased(reference, level):
    """E_old of each token's estimate is the KL of the next-token distributions at the prefixes π_old visits."""
    problem = oracle.autoregressive(3, reference)
    ref_log_probs = problem.token_log_probs(problem.ref_logits, problem.ref_mass)
    log_probs, old_log_probs = map(problem.token_log_probs, (problem.logits, problem.old_logits))
    stats = rpg_token_losses(
        log_probs,
        old_log_probs,
        problem.rewards.unsqueeze(-1),
        ref_log_probs,
        problem.mask,
        divergence="urkl",
        gradient_estimator="reinforce",
        beta=0.1,
        importance_level=level,
    ).stats
    policy, old, ref = (logits.softmax(-1) for logits in (problem.logits, problem.old_logits, problem.ref_logits))
    ref = ref * problem.ref_mass
    kl_old = (policy * (policy / old).log()).sum(-1)
    kl_ref = (policy * (policy / ref).log()).sum(-1)
    expected = {
        "kl_old_k1": kl_old,
        "kl_old_k3": kl_old,
        "kl_ref_k1": kl_ref,
        "kl_ref_k3": kl_ref + problem.ref_mass - 1,  # of an unnormalized reference, the unnormalized KL
    }
    visits = problem.measure(problem.old_logits).unsqueeze(-1) * problem.mask  # (N, T)
    for name, of_context in expected.items():
        torch.testing.assert_close((visits * stats[name]).sum(), (visits * of_context[problem.contexts]).sum())


@pytest.mark.parametrize("reference", oracle.REFERENCES[:2])
@pytest.mark.parametrize("divergence", oracle.DIVERGENCES)
def test_the_kl_of_whole_replies(divergence, reference):
    """sequence and prefix have it exactly; token only for the forward forms under π_ref = π_old."""
    assert oracle.reply_error(divergence, "sequence", reference) < 1e-13
    assert oracle.reply_error(divergence, "prefix", reference) < 1e-13
    is_exact = divergence in ("fkl", "ufkl") and reference == oracle.REFERENCES[0]
    assert (oracle.reply_error(divergence, "token", reference) < 1e-13) == is_exact
