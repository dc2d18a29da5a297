"""Ground truth by enumeration: J(θ) = E_θ[R] - β·D added up over every outcome in float64, and autograd of J itself.

Nothing here knows an importance weight or a surrogate. Run `python -m tests.oracle` for the table of worst errors of
rpg_openrlhf.objectives.losses over all combinations (arXiv 2505.17508, Tables 1, 2 and 4, extended to any π_ref).

Legend: N outcomes (actions of a categorical policy, or whole responses of an autoregressive one), T tokens of the
longest outcome; policies are measures over outcomes, (N,), or log-probabilities of their tokens, (N, T).
"""

from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from rpg_openrlhf.objectives.losses import rpg_token_losses

DIVERGENCES = ("fkl", "ufkl", "rkl", "urkl")
GRADIENT_ESTIMATORS = ("differentiable", "reinforce")
IMPORTANCE_LEVELS = ("token", "sequence", "prefix")
REFERENCES = ("π_ref = π_old", "π_ref ≠ π_old", "mass of π_ref ≠ 1")
BETAS = (0.0, 1e-3, 0.3, 2.0)
TOLERANCE = 1e-9


def divergence_by_definition(name: str, policy: Tensor, reference: Tensor) -> Tensor:
    """D between two measures over all outcomes, (N,) each, as Section 2.2 and Appendix D define it; 0-d."""
    forward = (reference * (reference.log() - policy.log())).sum()
    backward = (policy * (policy.log() - reference.log())).sum()
    match name:
        case "fkl":
            return forward
        case "ufkl":
            return forward + (policy - reference).sum()
        case "rkl":
            return backward
        case "urkl":
            return backward + (reference - policy).sum()
    raise ValueError(f"no divergence {name!r}")


def objective(name: str, policy: Tensor, reference: Tensor, rewards: Tensor, beta: float) -> Tensor:
    """J = Σ_y π_θ(y) R(y) - β·D; policy, reference, rewards: (N,)."""
    return (policy * rewards).sum() - beta * divergence_by_definition(name, policy, reference)


@dataclass
class Problem:
    """A policy to differentiate at `logits`, and everything else that J and a batch of all outcomes need."""

    logits: Tensor  # parameters of π_θ, one row a context
    old_logits: Tensor
    ref_logits: Tensor  # its softmax times ref_mass is π_ref
    ref_mass: float
    outcomes: Tensor  # (N, T) actions, 0 where masked
    contexts: Tensor  # (N, T) row of logits in which each action is taken
    mask: Tensor  # (N, T) bool
    rewards: Tensor  # (N,)

    def token_log_probs(self, logits: Tensor, mass: float = 1.0) -> Tensor:
        """log of the measure of each outcome's tokens, (N, T)."""
        return (torch.log_softmax(logits, -1) + torch.log(torch.tensor(mass).double()))[self.contexts, self.outcomes]

    def measure(self, logits: Tensor, mass: float = 1.0) -> Tensor:
        """The measure of each outcome, the product over its tokens, (N,)."""
        return torch.where(self.mask, self.token_log_probs(logits, mass), 0.0).sum(-1).exp()

    def true_gradient(self, divergence: str, beta: float) -> Tensor:
        """∇J at `logits`, by autograd of J."""
        logits = self.logits.clone().requires_grad_()
        reference = self.measure(self.ref_logits, self.ref_mass)
        value = objective(divergence, self.measure(logits), reference, self.rewards, beta)
        return torch.autograd.grad(value, logits)[0]

    def estimated_gradient(self, on_old: bool = False, **options) -> Tensor:
        """E_old[∇ loss] of rpg_token_losses: every outcome once, weighted by π_old; `on_old` leaves π_ref out."""
        logits = self.logits.clone().requires_grad_()
        ref_log_probs = None if on_old else self.token_log_probs(self.ref_logits, self.ref_mass)
        baseline = 0.37  # A = R - b: a baseline moves no expected gradient
        losses = rpg_token_losses(
            self.token_log_probs(logits),
            self.token_log_probs(self.old_logits),
            (self.rewards - baseline).unsqueeze(-1),
            ref_log_probs,
            self.mask,
            **options,
        ).losses
        return torch.autograd.grad((self.measure(self.old_logits) * losses.sum(-1)).sum(), logits)[0]


def categorical(seed: int, reference: str, actions: int = 7) -> Problem:
    """One token: N = `actions` outcomes of length 1, where a token is all there is."""
    return _problem(seed, reference, [[action] for action in range(actions)], actions)


def autoregressive(seed: int, reference: str, length: int = 3, actions: int = 3) -> Problem:
    """Responses up to `length` tokens, ended early by action 0, with a table of logits for every prefix."""
    finished: list[list[int]] = []
    prefixes: list[list[int]] = [[]]
    for position in range(length):
        extended = [[*prefix, action] for prefix in prefixes for action in range(actions)]
        finished += [response for response in extended if response[-1] == 0 or position == length - 1]
        prefixes = [response for response in extended if response[-1] != 0]
    return _problem(seed, reference, finished, actions)


def _problem(seed: int, reference: str, responses: list[list[int]], actions: int) -> Problem:
    generator = torch.Generator().manual_seed(seed)
    rows: dict[tuple[int, ...], int] = {}
    outcomes = torch.zeros(len(responses), max(map(len, responses)), dtype=torch.long)
    contexts, mask = outcomes.clone(), torch.zeros_like(outcomes, dtype=torch.bool)
    for i, response in enumerate(responses):
        for t, action in enumerate(response):
            outcomes[i, t], mask[i, t] = action, True
            contexts[i, t] = rows.setdefault(tuple(response[:t]), len(rows))

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    logits, old_logits = normal(len(rows), actions), normal(len(rows), actions)
    ref_logits = old_logits if reference == REFERENCES[0] else normal(len(rows), actions)
    ref_mass = 0.6 if reference == REFERENCES[2] else 1.0
    rewards = normal(len(responses))
    return Problem(logits, old_logits, ref_logits, ref_mass, outcomes, contexts, mask, rewards)


def combinations() -> list[tuple[str, str, str, str, float]]:
    """(divergence, gradient estimator, importance level, reference, β): only the U forms take a mass other than 1.

    Prefix weights need a π_ref that is normalized at every token.
    """
    every = product(DIVERGENCES, GRADIENT_ESTIMATORS, IMPORTANCE_LEVELS, REFERENCES, BETAS)
    return [row for row in every if row[3] != REFERENCES[2] or (row[0] in ("ufkl", "urkl") and row[2] != "prefix")]


def worst_error(
    divergence: str, gradient_estimator: str, importance_level: str, reference: str, beta: float, draws: int = 3
) -> float:
    """Largest |E_old[∇ loss] + ∇J| of a combination over random problems, in any parameter.

    At level token a token must be all there is: J of a longer response has no exact gradient in single-token weights.
    """
    problem_of = categorical if importance_level == "token" else autoregressive
    errors = []
    for seed in range(draws):
        problem = problem_of(seed, reference)
        estimate = problem.estimated_gradient(
            on_old=reference == REFERENCES[0],
            divergence=divergence,
            gradient_estimator=gradient_estimator,
            importance_level=importance_level,
            reward_weight="sequence" if importance_level == "prefix" else "token",
            beta=beta,
        )
        errors.append((estimate + problem.true_gradient(divergence, beta)).abs().max())
    return float(torch.stack(errors).max())


def reply_error(divergence: str, importance_level: str, reference: str, draws: int = 10) -> float:
    """|E_old[∇ loss] - ∇D| / |∇D| for the KL alone of replies of up to three tokens, mean of random problems.

    π_θ is 0.3 normal logits away from π_old, π_ref as far. At level token each token is weighted as if it were alone.
    """
    errors = []
    for seed in range(draws):
        problem = autoregressive(seed, reference)
        on_old = reference == REFERENCES[0]
        problem.logits = problem.old_logits + 0.3 * problem.logits
        problem.ref_logits = problem.old_logits + (0.0 if on_old else 0.3) * problem.ref_logits
        options = {"divergence": divergence, "gradient_estimator": "reinforce", "importance_level": importance_level}
        estimate = problem.estimated_gradient(on_old, beta=1.0, **options)
        estimate = estimate - problem.estimated_gradient(on_old, beta=0.0, **options)
        exact = (problem.true_gradient(divergence, 1.0) - problem.true_gradient(divergence, 0.0)).neg()
        errors.append((estimate - exact).norm() / exact.norm())
    return float(torch.stack(errors).mean())


def main() -> None:
    torch.set_num_threads(1)
    columns = [(level, reference) for level in IMPORTANCE_LEVELS for reference in REFERENCES]
    print("| divergence | estimator | " + " | ".join(f"{level}, {reference}" for level, reference in columns) + " |")
    print("|---" * (2 + len(columns)) + "|")
    worst: dict[tuple[str, ...], float] = {}
    for *key, beta in combinations():
        divergence, estimator, level, reference = key
        error = worst_error(divergence, estimator, level, reference, beta, draws=20)
        worst[tuple(key)] = max(worst.get(tuple(key), 0.0), error)
    for divergence, estimator in product(DIVERGENCES, GRADIENT_ESTIMATORS):
        errors = [worst.get((divergence, estimator, *column)) for column in columns]
        cells = ["n/a" if error is None else f"{error:.1e}" for error in errors]
        print(f"| {divergence} | {estimator} | " + " | ".join(cells) + " |")
    print(
        f"\nLargest |E_old[∇ loss] + ∇J| in any parameter, float64, worst of 20 random problems for each of β = "
        f"{', '.join(map(str, BETAS))}: {max(worst.values()):.1e}. Token: 7 actions; sequence: all "
        f"{len(autoregressive(0, REFERENCES[0]).outcomes)} responses of up to 3 tokens over 3 actions; prefix: these."
    )
    print("\n| the KL of whole replies, relative error | " + " | ".join(IMPORTANCE_LEVELS) + " |\n|---|---|---|---|")
    for divergence, reference in product(DIVERGENCES, REFERENCES[:2]):
        errors = [reply_error(divergence, level, reference) for level in IMPORTANCE_LEVELS]
        cells = [f"{error:.2f}" if error > 1e-3 else f"{error:.0e}" for error in errors]
        print(f"| {divergence}, {reference} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
