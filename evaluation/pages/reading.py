"""Sentences about a comparison of methods over seeds: which pairs differ, which do not, and which runs break."""

from collections.abc import Sequence

from evaluation.pages.methods import REWARD, Method, Pair, scores_of, selections
from evaluation.pages.table import title_of
from evaluation.scores.seeds import mean_of

LEVEL = 0.05
BROKEN = 0.5  # a run breaks if it ends below this share of its best score, or below the start model's


def differences(pairs: Sequence[Pair], measure: str) -> list[str]:
    """Sentences on the pairs that differ after Holm's correction, and on how far the others may differ."""
    title = title_of(measure)
    verb, where = ("is", "over the run") if measure == REWARD else ("ends", "at the last checkpoint")
    differ = [pair for pair in pairs if pair.holm is not None and pair.holm < LEVEL]
    lines = [
        f"{title}: {_higher_first(pair, verb)}, Holm's p {pair.holm:.3f})."
        for pair in sorted(differ, key=lambda pair: pair.holm)
    ]
    if not differ:
        lines.append(f"{title}: after correction for {len(pairs)} pairs no two methods differ {where}.")
    reaches = {pair: _reach(pair) for pair in pairs if pair not in differ and pair.difference.low is not None}
    if reaches:
        widest = max(reaches, key=lambda pair: reaches[pair])
        others = f"the {len(pairs)}" if len(reaches) == len(pairs) else f"the other {len(reaches)} of {len(pairs)}"
        lines.append(
            f"This does not show that {others} pairs are equal: their intervals "
            f"allow differences of up to {reaches[widest]:.3f} ({widest.first} and {widest.second})."
        )
    return lines


def _reach(pair: Pair) -> float:
    return max(abs(pair.difference.low or 0), abs(pair.difference.high or 0))


def _higher_first(pair: Pair, verb: str) -> str:
    value, low, high = pair.difference.value, pair.difference.low or 0.0, pair.difference.high or 0.0
    if value > 0:
        return f"{pair.first} {verb} {value:.3f} above {pair.second} (95 %: {low:.3f} to {high:.3f}"
    return f"{pair.second} {verb} {-value:.3f} above {pair.first} (95 %: {-high:.3f} to {-low:.3f}"


def ranking(methods: Sequence[Method], measure: str) -> str:
    """Methods with their means, the highest first."""
    scores = {method.name: scores_of(method, measure) for method in methods}
    means = {name: mean_of(by_seed).value for name, by_seed in scores.items() if by_seed}
    return ", ".join(f"{name} {means[name]:.3f}" for name in sorted(means, key=lambda name: -means[name]))


def broken(methods: Sequence[Method], benchmark: str, start: float | None) -> list[str]:
    """A line per method with runs that ended far below their best or below the start model, and one for the others."""
    lines, steady = [], []
    for method in methods:
        runs = selections(method, benchmark)
        ends = [
            f"seed {seed} {run.last.value:.3f} after {run.best.value:.3f}"
            for seed, run in runs.items()
            if run.last.value < BROKEN * run.best.value or (start is not None and run.last.value < start)
        ]
        if ends:
            lines.append(f"{method.name} breaks in {len(ends)} of {len(runs)} runs: {', '.join(ends)}.")
        else:
            steady.append(method.name)
    return lines + ([f"No run of {', '.join(steady)} breaks."] if steady else [])
