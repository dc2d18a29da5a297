"""Sentences about a comparison of methods over seeds, written from its numbers: which pairs differ, which do not."""

from collections.abc import Sequence

from evaluation.pages.methods import REWARD, Method, Pair, last_of, rewards_of, selections
from evaluation.pages.tables import title_of
from evaluation.scores.seeds import Difference, mean_of

LEVEL = 0.05
BROKEN = 0.5  # a run has broken when it ends below this share of its own best, or below where it began


def differences(found: Sequence[Pair], measure: str) -> list[str]:
    """Pairs that differ after Holm's correction, and the difference that the others leave open."""
    title = title_of(measure)
    verb, where = ("is", "over the run") if measure == REWARD else ("ends", "at the last checkpoint")
    differ = [pair for pair in found if pair.holm is not None and pair.holm < LEVEL]
    open_ = [pair for pair in found if pair not in differ and pair.found.low is not None]
    lines = []
    for pair in sorted(differ, key=lambda pair: pair.holm or 0.0):
        of = pair.found
        higher, lower, gap = (
            (pair.first, pair.second, of.value) if of.value > 0 else (pair.second, pair.first, -of.value)
        )
        lines.append(f"{title}: {higher} {verb} {gap:.3f} above {lower} ({_interval(of)}, Holm's p {pair.holm:.3f}).")
    if not differ:
        lines.append(f"{title}: after correction for {len(found)} pairs no two methods differ {where}.")
    if open_:
        widest = max(open_, key=lambda pair: max(abs(pair.found.low or 0), abs(pair.found.high or 0)))
        reach = max(abs(widest.found.low or 0), abs(widest.found.high or 0))
        lines.append(
            f"That {_of(len(open_), len(found))} pairs do not differ is not shown, only not refuted: their intervals "
            f"still hold differences of up to {reach:.3f} ({widest.first} and {widest.second})."
        )
    return lines


def _of(part: int, whole: int) -> str:
    return f"the {whole}" if part == whole else f"the other {part} of {whole}"


def _interval(of: Difference) -> str:
    low, high = (of.low or 0.0, of.high or 0.0) if of.value > 0 else (-(of.high or 0.0), -(of.low or 0.0))
    return f"95 %: {low:.3f} to {high:.3f}"


def ranking(methods: Sequence[Method], measure: str) -> str:
    """The methods from the highest mean down."""
    scores = {m.name: rewards_of(m) if measure == REWARD else last_of(m, measure) for m in methods}
    means = {name: mean_of(found) for name, found in scores.items() if found}
    order = sorted(means, key=lambda name: -means[name].value)
    return ", ".join(f"{name} {means[name].value:.3f}" for name in order)


def broken(methods: Sequence[Method], benchmark: str, start: float | None) -> list[str]:
    """A line a method of which a run ended far below its own best, or below the model it began from."""
    lines = []
    for method in methods:
        runs = selections(method, benchmark)
        ends = {
            seed: (of.last.value, of.best.value)
            for seed, of in runs.items()
            if of.last.value < BROKEN * of.best.value or (start is not None and of.last.value < start)
        }
        if ends:
            told = ", ".join(f"seed {seed} {last:.3f} after {best:.3f}" for seed, (last, best) in ends.items())
            lines.append(f"{method.name} breaks in {len(ends)} of {len(runs)} runs: {told}.")
    steady = [method.name for method in methods if not any(line.startswith(f"{method.name} breaks") for line in lines)]
    if steady:
        lines.append(f"No run of {', '.join(steady)} breaks.")
    return lines
