"""Compare the arms of a study: intervals over seeds, pairs with the first arm, a pair of equal arms, and the power.

    python -m examples.comparison.report --study objective --out out/compare

Writes comparison.md and comparison.png into the folder. It compares J = E[R] - beta KL of a reply, or the accuracy in
the study of staleness. Every arm is paired by seed with the first; p is from a paired t-test, with Holm's correction
over one table's pairs. The pair of two equal arms (A/A) shows chance and is left out of the correction.
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

import examples.comparison.objective as objective  # first: it sets the threads' policy before numpy loads
from evaluation.scores.intervals import holm
from evaluation.scores.seeds import BySeed, Difference, difference, mean_of
from examples.comparison.studies import STUDIES, Arm, Study
from examples.comparison.train import add_study, all_runs
from rpg_openrlhf.runs.checkpoints import write_json

SAMPLES = 4  # replies to each held-out problem
Scores = dict[Arm, dict[int, objective.Score]]


def scores_of(study: Study, out: Path, seeds: int) -> dict[float, Scores]:
    """Score every trained model, or read its stored score -> scores by the setting's value, arm and seed."""
    start, tokenizer = objective.load(out / "warm_up"), objective.load_tokenizer(out / "warm_up")
    lines = (out / "data" / "heldout.jsonl").read_text(encoding="utf-8").splitlines()
    problems = [json.loads(line) for line in lines]
    scores: dict[float, Scores] = {value: defaultdict(dict) for value in study.values}
    for run in tqdm([run for run in all_runs(study, seeds) if run.is_done(out)], desc="scores", unit="model"):
        file = run.folder(out) / "score.json"
        if not file.exists():
            model = objective.load(run.folder(out) / "model")
            score = objective.score(model, start, tokenizer, problems, SAMPLES, run.seed)
            write_json(file, asdict(score))
        score = objective.Score(**json.loads(file.read_text(encoding="utf-8")))
        for value in study.values if run.value is None else (run.value,):
            scores[value][run.arm][run.seed] = score
    return scores


def staleness(study: Study, out: Path, seeds: int) -> str:
    """Markdown table: versions that samples are behind the engines, by arm and queue; upstream logs none."""
    behind: dict[tuple[Arm, float | None], list[float]] = defaultdict(list)
    for run in all_runs(study, seeds):
        log = run.folder(out) / "logs" / "metrics.jsonl"
        if run.is_done(out) and log.exists():
            rows = map(json.loads, log.read_text(encoding="utf-8").splitlines())
            behind[run.arm, run.value] += [row["async/staleness"] for row in rows if "async/staleness" in row]
    lines = [_row(["arm", *(f"queue {value:g}" for value in study.values)]), "|---" * (len(study.values) + 1) + "|"]
    for arm in study.arms:
        means = [behind[arm, value] for value in study.values]
        if any(means):
            lines.append(_row([arm.name, *(f"{statistics.mean(mean):.2f}" if mean else "–" for mean in means)]))
    return "\n".join(lines) + "\n"


def smallest_found(spread: float, seeds: int, pairs: int, power: float = 0.8, level: float = 0.05) -> float:
    """Return the smallest difference that a paired t-test finds with this power, at Holm's first level.

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


def compared(study: Study, value: float, score: objective.Score) -> float:
    """Return the number that the study compares: J, or the accuracy."""
    return score.objective(value) if study.setting == "beta" else score.accuracy


def measure_of(study: Study) -> str:
    """Name of the number that the study compares."""
    return "J" if study.setting == "beta" else "accuracy"


def table(study: Study, scores: Scores, value: float) -> str:
    """Markdown table of one value of the setting: each arm's scores, and its difference from the first arm."""
    by_arm = {
        arm: {seed: compared(study, value, score) for seed, score in scores[arm].items()}
        for arm in study.arms
        if scores[arm]
    }
    base = by_arm[study.base]
    differences = {
        arm: difference(values, base)
        for arm, values in by_arm.items()
        if arm != study.base and values.keys() & base.keys()
    }
    declared = [arm for arm in differences if arm != study.control]
    corrected = dict(zip(declared, holm([differences[arm].p for arm in declared]), strict=True))
    measure = measure_of(study)
    columns = ["arm", "runs", *(["accuracy"] if measure == "J" else []), "KL a reply", measure]
    columns += [f"{measure} less that of the first", "p", "p, Holm"]
    lines = [_row(columns), "|---" * len(columns) + "|"]
    for arm, values in by_arm.items():
        runs = scores[arm].values()
        mean = mean_of(values)
        cells = [arm.name, str(mean.runs)]
        if measure == "J":
            accuracy = mean_of({seed: score.accuracy for seed, score in scores[arm].items()})
            cells.append(interval(accuracy.value, accuracy.low, accuracy.high))
        cells += [f"{statistics.mean(score.kl for score in runs):.2f}", interval(mean.value, mean.low, mean.high)]
        lines.append(_row([*cells, *_compared(differences.get(arm), corrected.get(arm), arm == study.control)]))
    return "\n".join(lines) + "\n" + _power(study, by_arm, len(declared))


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _compared(pair: Difference | None, corrected: float | None, is_control: bool) -> list[str]:
    if pair is None:
        return ["", "", ""]
    p = "–" if pair.p is None else f"{pair.p:.3f}"
    adjusted = "A/A" if is_control else "–" if corrected is None else f"{corrected:.3f}"
    return [interval(pair.value, pair.low, pair.high), p, adjusted]


def _power(study: Study, by_arm: dict[Arm, BySeed], pairs: int) -> str:
    base = by_arm[study.base]
    paired = {arm: len(values.keys() & base.keys()) for arm, values in by_arm.items() if arm != study.base}
    spreads = [spread_of(by_arm[arm], base) for arm, seeds in paired.items() if seeds > 2]
    if not spreads:
        return ""
    spread, seeds = statistics.median(spreads), statistics.median_low(n for n in paired.values() if n > 2)
    smallest = smallest_found(spread, seeds, pairs)
    return (
        f"\nStandard deviation of a pair's differences: {spread:.3f} in the median. With {seeds} seeds and {pairs} "
        f"pairs a difference of {smallest:.3f} is found in 80 % of such studies.\n"
    )


def draw(study: Study, scores: dict[float, Scores], file: Path) -> None:
    """Draw every arm's mean with its interval, and each run as a point."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(scores), figsize=(11, 4.6), sharey=True, layout="constrained")
    for axis, (value, arms) in zip(axes, scores.items(), strict=True):
        for place, arm in enumerate(study.arms):
            values = {seed: compared(study, value, score) for seed, score in arms[arm].items()}
            if not values:
                continue
            mean = mean_of(values)
            color = "#1f5fa8" if arm in (study.base, study.control) else "#444444"
            axis.plot(list(values.values()), [place] * len(values), ".", color=color, alpha=0.35, markersize=4)
            if mean.low is not None and mean.high is not None:
                axis.plot([mean.low, mean.high], [place, place], color=color, linewidth=2)
            axis.plot(mean.value, place, "o", color=color, markersize=5)
        axis.set_title(f"β = {value:g}" if study.setting == "beta" else f"{study.setting} {value:g}")
        axis.set_xlabel("J = E[R] − β KL, of a reply" if study.setting == "beta" else "accuracy")
        axis.grid(axis="x", alpha=0.3)
    axes[0].set_yticks(range(len(study.arms)), [arm.name for arm in study.arms])
    axes[0].invert_yaxis()
    figure.savefig(file, dpi=150)


def main(argv: list[str] | None = None) -> int:
    """Score and compare the trained runs; return 2 if the first arm has none."""
    parser = argparse.ArgumentParser(prog="report.py", description="Compare the arms of a study.")
    add_study(parser)
    args = parser.parse_args(argv)
    study = STUDIES[args.study]
    seeds = study.seeds if args.seeds is None else args.seeds
    if not any(run.is_done(args.out) for run in all_runs(study, seeds) if run.arm == study.base):
        missing = f"holds no trained run of {study.base.name}, with which all others are compared"
        print(f"report.py: error: --out {args.out}: {missing}; run examples.comparison.train first", file=sys.stderr)
        return 2
    scores = scores_of(study, args.out, seeds)
    letter = "β" if study.setting == "beta" else study.setting
    text = "\n".join(
        f"### {letter} = {value:g}\n\n{table(study, arms, value)}"
        for value, arms in scores.items()
        if arms[study.base]
    )
    if study.setting == "queue":
        text += f"\n### Staleness\n\nMean over rollouts, in versions.\n\n{staleness(study, args.out, seeds)}"
    (args.out / "comparison.md").write_text(text, encoding="utf-8")
    draw(study, scores, args.out / "comparison.png")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
