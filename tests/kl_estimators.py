"""Which gradient a KL term of other programs has, by enumeration: `python -m tests.kl_estimators` prints the table.

Each is a function of l = log π_θ/π_ref, averaged over samples of π_old and differentiated. OpenRLHF's is its own
`compute_approx_kl`. The paper's release (complex-reasoning/RPG, verl/trainer/ppo/core_algos.py, commit 6209206) has
our surrogates with ρ left out, and under the names of its REINFORCE-style losses our score weights, to be
differentiated once more; both are clamped to ±10.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from rpg_openrlhf.objectives.divergences import DIVERGENCES
from tests import oracle, upstream

upstream.make_importable()

from openrlhf.models.utils import compute_approx_kl

DRAWS, SPREAD = 50, 0.4  # of normal logits: small enough that no term meets its clamp
Term = Callable[[Tensor, Tensor, Tensor], Tensor]  # log-probs of π_θ, π_old, π_ref, (N,) each, to the term's values


def openrlhf(estimator: str, unbiased: bool = False) -> Term:
    return lambda new, old, ref: compute_approx_kl(new.float(), ref, old, estimator, unbiased).double()


def release(divergence: str) -> Term:
    surrogate = DIVERGENCES[divergence].surrogate
    return lambda new, old, ref: surrogate((new - ref).exp(), 1.0, new - ref, new - ref).clamp(-10, 10)


def release_reinforce(divergence: str) -> Term:
    weight = DIVERGENCES[divergence].score_weight  # of fkl a number; a term in any case
    return lambda new, old, ref: (0 * new - weight((new - ref).exp(), 1.0, new - ref)).clamp(-10, 10)


def here(divergence: str) -> Term:
    surrogate = DIVERGENCES[divergence].surrogate
    return lambda new, old, ref: surrogate((new - old).exp(), (ref - old).exp(), new - ref, new)


def gradients(
    term: Term, divergence: str, seed: int, on_old: bool = False, on_policy: bool = False
) -> tuple[Tensor, Tensor]:
    """E_old[∇ term] and ∇D of one random problem, by the logits; on_policy: π_θ = π_old."""
    problem = oracle.categorical(seed, oracle.REFERENCES[0] if on_old else oracle.REFERENCES[1])
    logits = (SPREAD * (problem.old_logits if on_policy else problem.logits)).requires_grad_()
    new = problem.token_log_probs(logits).squeeze(-1)
    old, ref = (
        problem.token_log_probs(SPREAD * each).squeeze(-1) for each in (problem.old_logits, problem.ref_logits)
    )
    (estimate,) = torch.autograd.grad((old.exp() * term(new, old, ref)).sum(), logits, retain_graph=True)
    (exact,) = torch.autograd.grad(oracle.divergence_by_definition(divergence, new.exp(), ref.exp()), logits)
    return estimate, exact


def error(term: Term, divergence: str, **setting: bool) -> float:
    """Mean over random problems of |E_old[∇ term] - ∇D| / |∇D|: 1 for a term without any gradient."""
    pairs = [gradients(term, divergence, seed, **setting) for seed in range(DRAWS)]
    return sum(float((estimate - exact).norm() / exact.norm()) for estimate, exact in pairs) / DRAWS


ROWS: dict[str, list[tuple[Term, str]]] = {
    "here: fkl / ufkl / rkl / urkl": [(here(name), name) for name in DIVERGENCES],
    "the release: fkl / ufkl / rkl / urkl": [(release(name), name) for name in DIVERGENCES],
    "the release, under its REINFORCE names": [(release_reinforce(name), name) for name in DIVERGENCES],
    "OpenRLHF k1 / k2 / k3, against rkl": [(openrlhf(name), "rkl") for name in ("k1", "k2", "k3")],
    "OpenRLHF k1 / k2 / k3, against fkl": [(openrlhf(name), "fkl") for name in ("k1", "k2", "k3")],
    "OpenRLHF with `--algo.kl.unbiased_gradient`, against rkl": [(openrlhf("k3", unbiased=True), "rkl")],
}
SETTINGS = {"π_ref = π_old ≠ π_θ": {"on_old": True}, "three policies": {}, "π_θ = π_old ≠ π_ref": {"on_policy": True}}


def main() -> None:
    torch.set_num_threads(1)
    print("| KL term | " + " | ".join(SETTINGS) + " |\n" + "|---" * (1 + len(SETTINGS)) + "|")
    for name, terms in ROWS.items():
        cells = [
            " / ".join(f"{error(term, of, **setting):.2f}" for term, of in terms) for setting in SETTINGS.values()
        ]
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
