"""Error and noise of every KL-regularized policy gradient, by enumeration: docs/estimators.md and its figure.

    python -m examples.estimators.report --out docs          (make estimators)

Everything is computed in float64 from every reply of a small language model; only its training uses samples.
"""

from __future__ import annotations

import os

# Set before torch loads: waiting OpenMP threads would spin and slow each other down on few cores.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else deepspeed, which transformers imports, warns of no GPU

import argparse
import json
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from examples.estimators import model as task
from examples.estimators import policies
from examples.estimators.measure import accuracy, kl_of_replies, measure
from examples.estimators.methods import methods
from examples.estimators.tree import Tree

BETA = 0.2
STALENESS = (0.01, 0.05, 0.2, 0.5)  # KL(π_θ‖π_old) of a reply, nats
LEVELS = (0.0, *STALENESS)
WARM_UP_STEPS, RL_STEPS = 250, 8
NAMES = ("estimator", "level", "clip")
Curves = dict[tuple[str, str, str], pd.DataFrame]  # records by (kind, level, clip)
SHOWN = (  # rows of the page's tables, in order
    *((kind, "token", "none") for kind in ("fkl", "ufkl", "rkl", "urkl")),
    *(("urkl", "token", clip) for clip in ("differentiable, gate", "reinforce, gate", "reinforce, truncate")),
    ("urkl", "prefix", "none"),
    ("urkl", "prefix", "reinforce, gate"),
    ("urkl", "prefix", "reinforce, truncate"),
    ("urkl", "prefix, reward of the reply", "none"),
    ("urkl", "prefix, reward of the reply", "reinforce, gate"),
    ("urkl", "sequence", "none"),
    ("urkl", "sequence", "reinforce, gate"),
    *((f"{name} as a loss", "token", "none") for name in ("k1", "k2", "k3")),
    *((f"{name} in the reward", "token", "none") for name in ("k1", "k3")),
    ("GRPO as released", "token", "differentiable, gate"),
    ("CISPO", "token", "reinforce, truncate"),
)
DRAWN = {  # lines of the figure
    "URKL token": ("urkl", "token", "none"),
    "URKL token, gate": ("urkl", "token", "reinforce, gate"),
    "URKL token, truncate": ("urkl", "token", "reinforce, truncate"),
    "URKL prefix": ("urkl", "prefix", "none"),
    "URKL prefix, reward of the reply": ("urkl", "prefix, reward of the reply", "none"),
    "URKL sequence": ("urkl", "sequence", "none"),
    "k1 as a loss": ("k1 as a loss", "token", "none"),
    "k3 as a loss": ("k3 as a loss", "token", "none"),
    "GRPO as released": ("GRPO as released", "token", "differentiable, gate"),
}


def compute(prompts: Sequence[str] = task.PROMPTS, staleness: Sequence[float] = STALENESS) -> list[dict]:
    """One record for each policy, way from it, staleness, reference and method."""
    model = task.build(0)
    task.warm_up(model, WARM_UP_STEPS, 0)
    forest = [Tree(model, prompt) for prompt in prompts]
    start = task.parameters_of(model)
    old = policies.after_rl(start, forest, RL_STEPS, BETA)
    every = list(methods(BETA))
    records = []
    for name, sampler, refs in (
        ("after RL", old, {"fixed": start, "old": old}),
        ("after warm-up", start, {"old": start}),
    ):
        by_steps = policies.by_optimizer_steps(sampler, start, forest, staleness, BETA)
        at_random = policies.in_a_random_direction(sampler, forest, staleness)
        places = [("both", 0.0, sampler)]
        places += [("optimizer steps", kl, policy) for kl, policy in zip(staleness, by_steps, strict=True)]
        places += [("a random direction", kl, policy) for kl, policy in zip(staleness, at_random, strict=True)]
        for way, kl, policy in tqdm(places, desc=name, unit="policy"):
            place = {
                "policy": name, "accuracy": accuracy(forest, sampler), "way": way, "staleness": kl,
                "kl": kl_of_replies(forest, policy, sampler),
            }  # fmt: skip
            errors, noises = measure(forest, policy, sampler, list(refs.values()), every, BETA)
            for r, reference in enumerate(refs):
                for m, method in enumerate(every):
                    labels = {label: getattr(method, label) for label in ("kind", "level", "clip", "target")}
                    numbers = {"error": float(errors[r, m]), "noise": float(noises[r, m])}
                    records.append(place | {"reference": reference} | labels | numbers)
    return records


def curves_of(records: pd.DataFrame, policy: str, reference: str, way: str) -> Curves:
    """Records of each method in the order of staleness; those without staleness belong to both ways."""
    is_meant = (records.policy == policy) & (records.reference == reference) & records.way.isin((way, "both"))
    return dict(iter(records[is_meant].sort_values("staleness").groupby(["kind", "level", "clip"])))


def _markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, *rows)]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]])


def table(curves: Curves) -> str:
    """Markdown: error at each staleness, then the noise at none and at the largest."""
    head = [*NAMES, *(f"error at KL {kl:g}" for kl in LEVELS), "noise at 0", f"noise at {LEVELS[-1]:g}"]
    rows = []
    for key in SHOWN:
        errors, noises = curves[key].error, curves[key].noise
        cells = [f"{error:.3f}" if error > 5e-4 else f"{error:.0e}" for error in errors]
        rows.append([*key, *cells, f"{noises.iloc[0]:.3g}", f"{noises.iloc[-1]:.3g}"])
    return _markdown(head, rows)


def crossing(base: pd.DataFrame, other: pd.DataFrame) -> list[str]:
    """Numbers N of replies for which `other` has the smaller error² + noise / N, at each staleness."""
    cells = []
    gains = base.error.to_numpy() ** 2 - other.error.to_numpy() ** 2
    prices = other.noise.to_numpy() - base.noise.to_numpy()
    for gain, price in zip(gains, prices, strict=True):
        if gain > 0 and price > 0:
            cells.append(f"from {price / gain:,.0f}")
        elif gain < 0 and price < 0:
            cells.append(f"up to {price / gain:,.0f}")
        else:
            cells.append("always" if gain >= 0 >= price and (gain, price) != (0, 0) else "never")
    return cells


def crossings(curves: Curves) -> str:
    """Markdown: for how many replies each is better than URKL at level token without a clip."""
    base = ("urkl", "token", "none")
    rows = [[label, *crossing(curves[base], curves[key])] for label, key in DRAWN.items() if key != base]
    return _markdown(["better than `urkl` at level token", *(f"KL {kl:g}" for kl in LEVELS)], rows)


def deviations(curves: Curves, replies: int) -> str:
    """Markdown: sqrt(error² + noise / N), the root mean squared error of a mean over N replies."""
    values = {key: np.hypot(curves[key].error, np.sqrt(curves[key].noise / replies)).to_numpy() for key in SHOWN}
    near = 1.05 * np.min(list(values.values()), axis=0)
    rows = []
    for key, row in values.items():
        cells = [
            f"**{value:.2f}**" if value <= bound else f"{value:.2f}" for value, bound in zip(row, near, strict=True)
        ]
        rows.append([*key, *cells])
    return _markdown([*NAMES, *(f"KL {kl:g}" for kl in LEVELS)], rows)


def draw(records: pd.DataFrame, path: Path) -> None:
    """Error and noise against staleness, a column for each way there; after RL, with a fixed reference."""
    import matplotlib.pyplot as plt  # late: only a drawing needs it

    figure, axes = plt.subplots(2, 2, figsize=(10, 7), sharex=True, layout="constrained")
    for column, way in zip(axes.T, ("optimizer steps", "a random direction"), strict=True):
        curves = curves_of(records, "after RL", "fixed", way)
        for label, key in DRAWN.items():
            style = "-" if key[2] == "none" else "--"
            for axis, values in zip(column, (curves[key].error.clip(lower=1e-3), curves[key].noise), strict=True):
                axis.plot(range(len(values)), values, style, marker="o", ms=3, label=label)
        column[0].set_title(f"away from π_old by {way}")
        column[1].set_xticks(range(len(LEVELS)), [f"{kl:g}" for kl in LEVELS])
        column[1].set_xlabel("KL(π_θ‖π_old) of a reply, nats")
    for row, name in zip(axes, ("relative error of the mean gradient", "noise of one reply / |∇J|²"), strict=True):
        row[0].set_ylabel(name)
        for axis in row:
            axis.set_yscale("log")
            axis.grid(alpha=0.3)
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def update(page: Path, parts: dict[str, str]) -> None:
    """Replace the text between <!-- NAME --> and <!-- /NAME -->."""
    text = page.read_text(encoding="utf-8")
    for name, content in parts.items():
        before, _, rest = text.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition(f"<!-- /{name} -->")
        text = f"{before}<!-- {name} -->\n{content}\n{end}{after}"
    page.write_text(text, encoding="utf-8")


def main(argv: list[str] | None = None) -> int:
    """Compute, then write the page's tables, the figure and every number as JSON lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs"), help="folder of estimators.md (%(default)s)")
    parser.add_argument(
        "--records", type=Path, default=Path("out/estimators.jsonl"), help="every number (%(default)s)"
    )
    parser.add_argument("--reuse", action="store_true", help="write tables and figure from --records alone")
    args = parser.parse_args(argv)
    began = time.monotonic()
    if args.reuse:
        records = [json.loads(line) for line in args.records.read_text(encoding="utf-8").splitlines()]
    else:
        records = compute()
        args.records.parent.mkdir(parents=True, exist_ok=True)
        args.records.write_text("".join(json.dumps(row) + "\n" for row in records), encoding="utf-8")
    frame = pd.DataFrame(records)
    curves = curves_of(frame, "after RL", "fixed", "optimizer steps")
    parts = {
        "steps": table(curves),
        "random": table(curves_of(frame, "after RL", "fixed", "a random direction")),
        "old": table(curves_of(frame, "after RL", "old", "optimizer steps")),
        "crossings": crossings(curves),
        "deviations": deviations(curves, 8192),
    }
    update(args.out / "estimators.md", parts)
    draw(frame, args.out / "estimators.png")
    print(f"{len(records)} numbers, {time.monotonic() - began:.0f} s: {args.out / 'estimators.md'}, {args.records}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
