"""The enumeration behind docs/estimators.md, against gradients of every reply taken one by one."""

import pandas as pd
import pytest
import torch

from examples.estimators import model as task
from examples.estimators.measure import coefficients_of, kl_of_replies, measure
from examples.estimators.methods import methods
from examples.estimators.policies import in_a_random_direction
from examples.estimators.report import DRAWN, SHOWN, crossing
from examples.estimators.tree import Tree
from tests import oracle

BETA = 0.2


@pytest.fixture(scope="module")
def setting():
    """Replies of up to two tokens, and three policies."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task, "LENGTH", 2)
        model = task.build(0)
        task.warm_up(model, 20, 0)
        tree = Tree(model, "2+3=")
        old = task.parameters_of(model)
        (policy,) = in_a_random_direction(old, [tree], [0.2])
        (ref,) = in_a_random_direction(policy, [tree], [0.1])
        yield tree, policy, old, ref


def test_a_tree_holds_every_reply_once(setting):
    tree, policy, old, _ = setting
    assert len(tree.rows) == 1 + (task.VOCABULARY - 1) * task.VOCABULARY
    assert len({tuple(row[mask].tolist()) for row, mask in zip(tree.rows, tree.mask, strict=True)}) == len(tree.rows)
    for parameters in (policy, old):
        probs = tree.reply_probs(tree.log_probs(parameters))
        assert float(probs.sum()) == pytest.approx(1, abs=1e-12)
    assert tree.is_right.sum() == 1
    assert kl_of_replies([tree], policy, old) == pytest.approx(0.2, rel=0.05)


def one_by_one(setting, method) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The mean gradient over π_old, the trace of its covariance, and ∇J, by autograd of each."""
    tree, policy, old, ref = setting
    leaves = {name: value.clone().requires_grad_() for name, value in policy.items()}
    rows = tree.log_probs(leaves)
    before, anchor = (tree.log_probs(each) for each in (old, ref))
    coefficients = coefficients_of(method, tree, rows.detach(), before, anchor)
    gradients = []
    for c, row, mask in zip(coefficients, tree.rows, tree.mask, strict=True):
        found = torch.autograd.grad((c * rows[row])[mask].sum(), list(leaves.values()), retain_graph=True)
        gradients.append(torch.cat([part.flatten() for part in found]))
    every, weights = torch.stack(gradients), tree.reply_probs(before)
    mean = weights @ every
    trace = weights @ (every - mean).square().sum(-1)
    reference, rewards = tree.reply_probs(anchor), 2 * tree.is_right - 1
    value = oracle.objective(method.target, tree.reply_probs(rows), reference, rewards, BETA)
    truth = torch.autograd.grad(value, list(leaves.values()))
    return mean, trace, torch.cat([part.flatten() for part in truth])


@pytest.mark.parametrize(
    "key",
    [("urkl", "token", "none"), ("rkl", "prefix", "reinforce, gate"), ("k3 as a loss", "token", "none")],
)
def test_error_and_noise_are_those_of_replies_taken_one_by_one(setting, key):
    tree, policy, old, ref = setting
    (method,) = [m for m in methods(BETA) if (m.kind, m.level, m.clip) == key]
    mean, trace, truth = one_by_one(setting, method)
    error, noise = measure([tree], policy, old, [ref], [method], BETA)
    assert float(error) == pytest.approx(float((mean - truth).norm() / truth.norm()), rel=1e-6)
    assert float(noise) == pytest.approx(float(trace / truth.square().sum()), rel=1e-6)


def test_what_is_exact_for_whole_replies(setting):
    tree, policy, old, ref = setting
    unclipped = [m for m in methods(BETA) if m.clip == "none" and m.target != "none"]
    ((errors,), _) = measure([tree], policy, old, [ref], unclipped, BETA)
    exact = {(m.kind, m.level) for m, error in zip(unclipped, errors, strict=True) if error < 1e-6}
    levels = ("prefix, reward of the reply", "sequence")
    assert exact == {(kind, level) for kind in ("fkl", "ufkl", "rkl", "urkl") for level in levels}


def test_the_page_names_methods_that_there_are():
    keys = {(m.kind, m.level, m.clip) for m in methods(BETA)}
    assert {*SHOWN, *DRAWN.values()} <= keys


def test_when_one_overtakes_the_other():
    """Mean squared error of N replies: error² + noise / N."""

    def row(error, noise):
        return pd.DataFrame({"error": [error], "noise": [noise]})

    assert crossing(row(0.3, 10.0), row(0.1, 18.0)) == ["from 100"]
    assert crossing(row(0.1, 18.0), row(0.3, 10.0)) == ["up to 100"]
    assert crossing(row(0.3, 10.0), row(0.1, 9.0)) == ["always"]
    assert crossing(row(0.1, 9.0), row(0.3, 10.0)) == ["never"]
