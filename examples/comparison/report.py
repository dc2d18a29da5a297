"""Compare the arms by J = E[R] - beta KL of a reply: intervals over seeds, declared pairs, the A/A pair, the power.

    python -m examples.comparison.report --out out/compare

Writes comparison.md and comparison.png into the folder. Every arm is paired by seed with the base arm; p is that of a
paired t-test, corrected by Holm for these pairs. The A/A pair is not among them: it shows what chance does.
"""

import argparse
import json
import statistics
import sys
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path

from scipy import optimize, stats
from tqdm import tqdm

import examples.comparison.objective as objective  # first: it sets the threads' policy before numpy's are there
from evaluation.scores.intervals import holm
from evaluation.scores.seeds import BySeed, Difference, difference, mean_of
from examples.comparison.arms import AGAIN, ARMS, BASE, BETAS, SEEDS, Arm
from examples.comparison.train import all_runs
from rpg_openrlhf.runs.checkpoints import write_json

SAMPLES = 4  # replies to each held-out problem
Scores = dict[Arm, dict[int, objective.Score]]


def scores_of(out: Path, seeds: int) -> dict[float, Scores]:
    """Score every trained model, or read its score where it has one; by beta and arm."""
    start, tokenizer = objective.load(out / "warm_up"), objective.load_tokenizer(out / "warm_up")
    lines = (out / "data" / "heldout.jsonl").read_text(encoding="utf-8").splitlines()
    problems = [json.loads(line) for line in lines]
    scores: dict[float, Scores] = {beta: defaultdict(dict) for beta in BETAS}
    for run in tqdm([run for run in all_runs(seeds) if run.is_done(out)], desc="scores", unit="model"):
        file = run.folder(out) / "score.json"
        if not file.exists():
            model = objective.load(run.folder(out) / "model")
            score = objective.score(model, start, tokenizer, problems, SAMPLES, run.seed)
            write_json(file, asdict(score))
        score = objective.Score(**json.loads(file.read_text(encoding="utf-8")))
        for beta in BETAS if run.beta is None else (run.beta,):
            scores[beta][run.arm][run.seed] = score
    return scores


def smallest_found(spread: float, seeds: int, pairs: int, power: float = 0.8, level: float = 0.05) -> float:
    """Return the difference that a paired t-test finds with this power, at the level of Holm's first step.

    spread: standard deviation of the differences of a pair.
    """
    freedom = seeds - 1
    critical = stats.t.ppf(1 - level / pairs / 2, freedom)
    shift = optimize.brentq(lambda shift: stats.nct.sf(critical, freedom, shift) - power, 0, 50)
    return float(shift * spread / seeds**0.5)


def spread_of(first: BySeed, second: BySeed) -> float:
    """Standard deviation of the differences over the seeds that both have."""
    return statistics.stdev(first[seed] - second[seed] for seed in sorted(first.keys() & second.keys()))


def interval(value: float, low: float | None, high: float | None) -> str:
    """A number and its 95 % interval."""
    return f"{value:.3f}" if low is None else f"{value:.3f} [{low:.3f}, {high:.3f}]"


def table(scores: Scores, beta: float) -> str:
    """Markdown of one beta: each arm's scores, and its difference from the base arm."""
    by_arm = {arm: {seed: score.objective(beta) for seed, score in scores[arm].items()} for arm in ARMS if scores[arm]}
    base = by_arm[BASE]
    differences = {
        arm: difference(values, base) for arm, values in by_arm.items() if arm != BASE and values.keys() & base.keys()
    }
    declared = [arm for arm in differences if arm != AGAIN]
    corrected = dict(zip(declared, holm([differences[arm].p for arm in declared]), strict=True))
    lines = [
        "| arm | runs | accuracy | KL a reply | J | J less that of the first | p | p, Holm |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for arm, values in by_arm.items():
        runs = scores[arm].values()
        mean = mean_of(values)
        accuracy = mean_of({seed: score.accuracy for seed, score in scores[arm].items()})
        cells = [arm.name, str(mean.runs), interval(accuracy.value, accuracy.low, accuracy.high)]
        cells += [f"{statistics.mean(score.kl for score in runs):.2f}", interval(mean.value, mean.low, mean.high)]
        cells += _compared(differences.get(arm), corrected.get(arm), arm == AGAIN)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n" + _power(by_arm, len(declared))


def _compared(pair: Difference | None, corrected: float | None, is_again: bool) -> list[str]:
    if pair is None:
        return ["", "", ""]
    p = "–" if pair.p is None else f"{pair.p:.3f}"
    adjusted = "A/A" if is_again else "–" if corrected is None else f"{corrected:.3f}"
    return [interval(pair.value, pair.low, pair.high), p, adjusted]


def _power(by_arm: dict[Arm, BySeed], pairs: int) -> str:
    base = by_arm[BASE]
    paired = {arm: len(values.keys() & base.keys()) for arm, values in by_arm.items() if arm != BASE}
    spreads = [spread_of(by_arm[arm], base) for arm, seeds in paired.items() if seeds > 2]
    if not spreads:
        return ""
    spread, seeds = statistics.median(spreads), statistics.median_low(n for n in paired.values() if n > 2)
    smallest = smallest_found(spread, seeds, pairs)
    return (
        f"\nStandard deviation of a pair's differences: {spread:.3f} in the median. With {seeds} seeds and {pairs} "
        f"pairs a difference of {smallest:.3f} is found in 80 % of such studies.\n"
    )


def draw(scores: dict[float, Scores], file: Path) -> None:
    """Draw J of every arm with its interval, and each run as a point."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(scores), figsize=(11, 4.6), sharey=True, layout="constrained")
    names = [arm.name for arm in ARMS]
    for axis, (beta, arms) in zip(axes, scores.items(), strict=True):
        for place, arm in enumerate(ARMS):
            values = {seed: score.objective(beta) for seed, score in arms[arm].items()}
            if not values:
                continue
            mean = mean_of(values)
            color = "#1f5fa8" if arm in (BASE, AGAIN) else "#444444"
            axis.plot(list(values.values()), [place] * len(values), ".", color=color, alpha=0.35, markersize=4)
            if mean.low is not None and mean.high is not None:
                axis.plot([mean.low, mean.high], [place, place], color=color, linewidth=2)
            axis.plot(mean.value, place, "o", color=color, markersize=5)
        axis.set_title(f"β = {beta:g}")
        axis.set_xlabel("J = E[R] − β KL, of a reply")
        axis.grid(axis="x", alpha=0.3)
    axes[0].set_yticks(range(len(names)), names)
    axes[0].invert_yaxis()
    figure.savefig(file, dpi=150)


def main(argv: list[str] | None = None) -> int:
    """Score what is trained and compare it: 2 where nothing is."""
    parser = argparse.ArgumentParser(prog="report.py", description="Compare the arms by J.")
    parser.add_argument("--out", type=Path, required=True, help="folder of the comparison")
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"seeds of each arm (default {SEEDS})")
    args = parser.parse_args(argv)
    if not any(run.is_done(args.out) for run in all_runs(args.seeds) if run.arm == BASE):
        missing = f"no trained run of {BASE.name} below it, which all others are compared with"
        print(f"report.py: error: --out {args.out}: {missing}; examples.comparison.train makes them", file=sys.stderr)
        return 2
    scores = scores_of(args.out, args.seeds)
    text = "\n".join(f"### β = {beta:g}\n\n{table(arms, beta)}" for beta, arms in scores.items() if arms[BASE])
    (args.out / "comparison.md").write_text(text, encoding="utf-8")
    draw(scores, args.out / "comparison.png")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
