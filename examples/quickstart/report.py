"""Summary of the quickstart: held-out accuracy before and after RL, paths of all results, and one PNG of curves.

python report.py --metrics metrics.jsonl --evaluation DIR --png curves.png
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from evaluation.pages import training_log
from evaluation.pages.figures import EDGE, PALETTE, STYLE

BLUE, ORANGE, GREEN, PURPLE = PALETTE[:4]
GREY = "#6b7280"
PHASES = (
    ("timing/generation", "generate", BLUE),
    ("timing/make_experience", "experience", ORANGE),
    ("timing/ppo_train", "train", GREEN),
    ("timing/broadcast", "sync", PURPLE),
)
PLACES = ("checkpoint", "logs", "tensorboard", "wandb")


class Score(NamedTuple):
    """Accuracy of one checkpoint on the held-out problems, with its 95 % interval over problems."""

    step: int
    value: float
    low: float
    high: float
    problems: int
    samples: int


def read_scores(folder: Path) -> list[Score]:
    """The held-out scores of every evaluated checkpoint, in step order, from the output folder of evaluation.run."""
    scores = []
    try:
        for row in json.loads((folder / "series.json").read_text(encoding="utf-8"))["checkpoints"]:
            if row["status"] == "done":
                results = json.loads((folder / row["folder"] / "results.json").read_text(encoding="utf-8"))
                (heldout,) = results["benchmarks"].values()
                ends = (heldout["mean"][key] for key in ("value", "low", "high"))
                scores.append(Score(row["step"], *ends, heldout["problems"], heldout["samples"]))
    except (ValueError, KeyError, TypeError, OSError):
        raise ValueError(f"{folder} was not written by evaluation.run --checkpoints") from None
    return scores


def read_share(path: Path) -> float:
    """The share of worked replies that warm_up.py recorded."""
    try:
        return float(json.loads(path.read_text(encoding="utf-8"))["worked_share"])
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path} was not written by warm_up.py") from None


def series(metrics: list[dict], key: str) -> tuple[list[float], list[float]]:
    """Steps and values of one key, over the steps that have it."""
    points = [(row["step"], row[key]) for row in metrics if isinstance(row.get(key), (int, float))]
    return [step for step, _ in points], [value for _, value in points]


def line(axes: Axes, metrics: list[dict], key: str, label: str | None, color: str) -> list[float]:
    """Draw one key against the step, if the run has logged it, and return its values."""
    steps, values = series(metrics, key)
    if steps:
        # A single step has no line to draw.
        axes.plot(steps, values, label=label, color=color, marker="o" if len(steps) == 1 else None)
    return values


def draw_reward(axes: Axes, metrics: list[dict], scores: list[Score]) -> None:
    """Training reward and accuracy, with the held-out accuracy of each checkpoint."""
    line(axes, metrics, "reward", "reward, training (±1)", GREY)
    line(axes, metrics, "score", "accuracy, training", BLUE)
    if scores:
        values = [score.value for score in scores]
        bars = [[s.value - s.low for s in scores], [s.high - s.value for s in scores]]
        style = {"fmt": "o", "color": ORANGE, "capsize": 3, "ms": 6, "zorder": 5}
        axes.errorbar([s.step for s in scores], values, yerr=bars, label="accuracy, held out (95 %)", **style)
    axes.set(title="Reward and accuracy", ylim=(-1.05, 1.08))


def draw_kl(axes: Axes, metrics: list[dict]) -> None:
    """KL to the sampling policy and to the reference; where both are one policy, one line is enough."""
    old, ref = "policy/kl_old_k3", "policy/kl_ref_k3"
    if not any(old in row or ref in row for row in metrics):
        old = "ppo_kl"
    if series(metrics, old) == series(metrics, ref):
        values = line(axes, metrics, old, r"to $\pi_{old} = \pi_{ref}$", BLUE)
    else:
        values = line(axes, metrics, ref, r"to $\pi_{ref}$", ORANGE) + line(
            axes, metrics, old, r"to $\pi_{old}$", BLUE
        )
        # A mark at every step after which the reference moved; none where it always does.
        moved = [row["step"] for row in metrics if row.get("ref/refresh")]
        for step in moved if len(moved) < len(metrics) else ():
            label = r"$\pi_{ref}$ moved" if step == moved[0] else None
            axes.axvline(step, color=GREY, linewidth=1.1, linestyle=":", label=label, zorder=0)
    if values:
        axes.axhline(0, color=EDGE, linewidth=0.8)
        axes.set_ylim(top=1.35 * max(*values, 1e-9))
    axes.set(title="KL divergence", ylabel="nats per token")


def draw_weights(axes: Axes, metrics: list[dict]) -> None:
    """Smallest, mean and largest importance weight of each step, on a logarithmic axis."""
    prefix = "policy/importance_weight_"
    (steps, low), (high_steps, high) = (series(metrics, prefix + end) for end in ("min", "max"))
    if steps and steps == high_steps:
        axes.fill_between(steps, low, high, color=BLUE, alpha=0.18, linewidth=0, label="min to max")
    line(axes, metrics, prefix + "mean", "mean", BLUE)
    if steps and min(low) > 0:
        axes.set_yscale("log")
        # Headroom for the legend, and plain numbers, since a range within one decade may hold no power of ten.
        axes.set_ylim(min(low) / 1.3, max(high) * 2.5)
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=8))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set(title="Importance weight", ylabel=r"$\pi\ /\ \pi_{old}$")


def draw_time(axes: Axes, metrics: list[dict]) -> None:
    """Seconds of a step by phase, stacked."""
    rows = [row for row in metrics if any(key in row for key, _, _ in PHASES)]
    if rows:
        keys, labels, colors = zip(*(phase for phase in PHASES if any(phase[0] in row for row in rows)), strict=True)
        values = [[row.get(key, 0.0) for row in rows] for key in keys]
        axes.stackplot([row["step"] for row in rows], values, labels=labels, colors=colors, alpha=0.75, linewidth=0)
        # A first step that compiles kernels can take a hundred times as long: it may exceed the axis.
        usual = sorted(map(sum, zip(*values, strict=True)))[int(0.9 * (len(rows) - 1))]
        axes.set_ylim(0, 1.9 * usual or None)
    axes.set(title="Time per step", ylabel="seconds")


def draw(metrics: list[dict], scores: list[Score], png: Path, title: str) -> None:
    """Six panels in one PNG; a panel without logged data says so."""
    with plt.rc_context(STYLE | {"text.parse_math": True, "legend.fontsize": 9.5}):
        figure, grid = plt.subplots(2, 3, figsize=(12, 6.4), layout="constrained", sharex=True)
        reward, kl, entropy, length, weights, time = grid.flat
        draw_reward(reward, metrics, scores)
        draw_kl(kl, metrics)
        line(entropy, metrics, "entropy_loss", None, PURPLE)
        entropy.set(title="Policy entropy", ylabel="nats per token", ylim=(0, None))
        longest = max(line(length, metrics, "response_length", None, GREEN), default=1.0)
        length.set(title="Response length", ylabel="tokens", ylim=(0, 1.12 * longest))
        draw_weights(weights, metrics)
        draw_time(time, metrics)
        for axes in grid.flat:
            if axes.has_data():
                axes.margins(x=0.02)
                axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
            else:
                axes.text(0.5, 0.5, "not logged in this run", transform=axes.transAxes, ha="center", color=GREY)
                axes.grid(False)
                axes.set_yticks([])
            if axes.get_legend_handles_labels()[0]:
                axes.legend(loc="lower right" if axes is reward else "upper right")
        for axes in grid[1]:
            axes.set_xlabel("RL step")
        figure.suptitle(title, fontsize=13, fontweight="bold", x=0.01, ha="left")
        figure.savefig(png, dpi=110)
        plt.close(figure)


def summary(metrics: list[dict], scores: list[Score], share: float | None) -> list[str]:
    """Lines of the summary; `share` is the warm-up's share of worked replies, None for a model from elsewhere."""
    lines = []
    if scores:
        each = f"{scores[0].samples // scores[0].problems} samples each of {scores[0].problems} held-out problems"
        lines += ["", f"Held-out accuracy at temperature 1, {each}, 95 % interval over problems"]
    for score in scores:
        name = "before RL" if score.step == 0 else f"after step {score.step}"
        lines.append(f"  {name:<14} {score.value:.3f}  [{score.low:.3f}, {score.high:.3f}]")
    if scores and share is None:
        lines.append("  Held-out problems do not occur in RL.")
    elif scores:
        lines += [
            "  Held-out problems occur in neither the warm-up nor RL. Every reply shown in the warm-up was right:",
            f"  {share:.0%} worked column by column, {1 - share:.0%} the sum at once, which so small a network "
            "cannot do.",
            "  So RL mostly learns to work the sums out, and to do it more reliably; it does not teach addition.",
        ]
    numbers = [f"{len(metrics)} RL step{'s' * (len(metrics) > 1)}"]
    length, seconds = (series(metrics, key)[1] for key in ("response_length", "timing/step_total"))
    if length:
        numbers.append(f"response length {length[0]:.0f} to {length[-1]:.0f} tokens")
    if isinstance(metrics[-1].get("timing/step_total"), (int, float)):
        numbers.append(f"{sum(seconds):.0f} s of training steps")
    return [*lines, "", ", ".join(numbers)]


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; a missing file is refused in one line."""
    parser = argparse.ArgumentParser(description="Print the quickstart's summary and draw its curves.")
    parser.add_argument("--metrics", type=Path, required=True, help="JSONL, one object per RL step")
    parser.add_argument("--evaluation", type=Path, help="output folder of evaluation.run --checkpoints")
    parser.add_argument("--png", type=Path, required=True, help="PNG to write")
    parser.add_argument("--warm_up", type=Path, help="warm_up.json of the tiny policy, to explain its first scores")
    parser.add_argument("--title", default="RPG quickstart", help="the figure's heading")
    for name in PLACES:
        parser.add_argument(f"--{name}", type=Path, help=f"path of {name}, for the summary")
    args = parser.parse_args(argv)
    for name in ("metrics", "evaluation", "warm_up"):
        path = getattr(args, name)
        if path is not None and not path.exists():
            parser.error(f"--{name} {path} does not exist")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Draw, then print."""
    args = parse_args(argv)
    try:
        metrics = training_log.read(args.metrics)
        if not metrics:
            raise ValueError(f"{args.metrics} holds no steps")
        scores = read_scores(args.evaluation) if args.evaluation else []
        share = read_share(args.warm_up) if args.warm_up else None
        args.png.parent.mkdir(parents=True, exist_ok=True)
        draw(metrics, scores, args.png, args.title)
    except (OSError, ValueError) as error:
        print(f"report.py: error: {error}", file=sys.stderr)
        return 1
    places = {"report": args.evaluation and args.evaluation / "report.html", "curves": args.png}
    places |= {name: getattr(args, name) for name in PLACES}
    print("", *(f"  {name:<12} {place}" for name, place in places.items() if place), sep="\n")
    print(*summary(metrics, scores, share), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
