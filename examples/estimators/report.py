"""Error and noise of every KL-regularized policy gradient, by enumeration: docs/estimators.md and its figure.

    python -m examples.estimators.report --out docs          (make estimators)

Everything is computed in float64 from every reply of a small language model; nothing is sampled but its training.
"""

from __future__ import annotations

import os

# Waiting OpenMP threads would spin and starve each other when the two cores are shared; set before torch loads.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("DS_ACCELERATOR", "cpu")  # transformers imports deepspeed, which else warns of no GPU

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from examples.estimators import model as task
from examples.estimators import policies
from examples.estimators import tree as trees
from examples.estimators.measure import accuracy, kl_of_replies, measure
from examples.estimators.methods import Method, methods

BETA = 0.2
STALENESS = (0.01, 0.05, 0.2, 0.5)  # KL(π_θ‖π_old) of a reply, nats; and 0
WARM_UP_STEPS, RL_STEPS = 250, 8
REFERENCES = ("fixed", "old")
SHOWN = (  # rows of the page's tables: (kind, level, clip), in order
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
    """One record for each policy, way there, staleness, reference and method."""
    model = task.build(0)
    task.warm_up(model, WARM_UP_STEPS, 0)
    forest = [trees.tree_of(prompt) for prompt in prompts]
    start = task.parameters_of(model)
    old = policies.after_rl(model, start, forest, RL_STEPS, BETA)
    every = list(methods(BETA))
    records = []
    for name, sampler, refs in (("after RL", old, (start, old)), ("after warm-up", start, (start,))):
        paths = {"optimizer steps": [], "a random direction": []}
        paths["optimizer steps"] = policies.by_optimizer_steps(model, sampler, start, forest, staleness, BETA)
        paths["a random direction"] = policies.in_a_random_direction(model, sampler, forest, staleness)
        places = [("both", 0.0, sampler)]
        places += [
            (way, kl, at) for way, estimators in paths.items() for kl, at in zip(staleness, estimators, strict=True)
        ]
        for way, kl, policy in tqdm(places, desc=name, unit="policy"):
            known = {
                "policy": name, "accuracy": accuracy(model, sampler, forest), "way": way, "staleness": kl,
                "kl": kl_of_replies(model, policy, sampler, forest),
            }  # fmt: skip
            estimators = measure(model, policy, sampler, refs, forest, every, BETA)
            for reference, measured in zip(REFERENCES if len(refs) > 1 else REFERENCES[1:], estimators, strict=True):
                records += [
                    known | {"reference": reference} | _row(m, r) for m, r in zip(every, measured, strict=True)
                ]
    return records


def _row(method: Method, measured) -> dict:
    return {
        "kind": method.kind, "level": method.level, "clip": method.clip, "target": method.target,
        "error": measured.error, "noise": measured.noise,
    }  # fmt: skip


def series(records: list[dict], key: tuple[str, str, str], policy: str, reference: str, way: str) -> list[dict]:
    """Records of one method in the order of staleness; those of no staleness are both ways'."""
    wanted = {"policy": policy, "reference": reference}
    rows = [
        row for row in records
        if all(row[name] == value for name, value in wanted.items())
        and row["way"] in (way, "both") and (row["kind"], row["level"], row["clip"]) == key
    ]  # fmt: skip
    return sorted(rows, key=lambda row: row["staleness"])


def table(records: list[dict], policy: str, reference: str, way: str) -> str:
    """Markdown: error at each staleness, then the noise at none and at the largest."""
    levels = (0.0, *STALENESS)
    head = [*(f"error at KL {kl:g}" for kl in levels), "noise at 0", f"noise at {levels[-1]:g}"]
    lines = ["| estimator | level | clip | " + " | ".join(head) + " |", "|---" * (3 + len(head)) + "|"]
    for key in SHOWN:
        rows = series(records, key, policy, reference, way)
        cells = [f"{row['error']:.3f}" if row["error"] > 5e-4 else f"{row['error']:.0e}" for row in rows]
        cells += [f"{rows[0]['noise']:.3g}", f"{rows[-1]['noise']:.3g}"]
        lines.append(f"| {' | '.join(key)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def crossing(rows: list[dict], other: list[dict]) -> list[str]:
    """Number N of replies up to which the second has the smaller error² + noise / N, at each staleness."""
    cells = []
    for a, b in zip(rows, other, strict=True):
        gain, price = a["error"] ** 2 - b["error"] ** 2, b["noise"] - a["noise"]
        if gain > 0 and price > 0:
            cells.append(f"from {price / gain:,.0f}")
        elif gain < 0 and price < 0:
            cells.append(f"up to {price / gain:,.0f}")
        else:
            cells.append("always" if gain >= 0 >= price and (gain, price) != (0, 0) else "never")
    return cells


def crossings(records: list[dict], policy: str, reference: str, way: str) -> str:
    """Markdown: for how many replies each is better than URKL at level token without a clip."""
    base = series(records, ("urkl", "token", "none"), policy, reference, way)
    lines = ["| better than `urkl` at level token | " + " | ".join(f"KL {kl:g}" for kl in (0.0, *STALENESS)) + " |"]
    lines.append("|---" * (2 + len(STALENESS)) + "|")
    for label, key in DRAWN.items():
        if key != ("urkl", "token", "none"):
            cells = crossing(base, series(records, key, policy, reference, way))
            lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def deviations(records: list[dict], policy: str, reference: str, way: str, replies: int) -> str:
    """Markdown: sqrt(error² + noise / N), the root mean squared error of a mean over N replies."""
    lines = ["| estimator | level | clip | " + " | ".join(f"KL {kl:g}" for kl in (0.0, *STALENESS)) + " |"]
    lines.append("|---" * (4 + len(STALENESS)) + "|")
    values = {}
    for key in SHOWN:
        rows = series(records, key, policy, reference, way)
        values[key] = [math.hypot(row["error"], math.sqrt(row["noise"] / replies)) for row in rows]
    least = [min(column) for column in zip(*values.values(), strict=True)]
    for key, row in values.items():
        near = [value <= 1.05 * low for value, low in zip(row, least, strict=True)]
        cells = [f"**{value:.2f}**" if bold else f"{value:.2f}" for value, bold in zip(row, near, strict=True)]
        lines.append(f"| {' | '.join(key)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(records: list[dict], path: Path) -> None:
    """Error and noise against staleness, a column for each way there; after RL, with a fixed reference."""
    import matplotlib.pyplot as plt  # late: only a drawing needs it

    figure, axes = plt.subplots(2, 2, figsize=(10, 7), sharex=True, layout="constrained")
    for column, way in enumerate(("optimizer steps", "a random direction")):
        for label, key in DRAWN.items():
            rows = series(records, key, "after RL", "fixed", way)
            x = range(len(rows))
            style = "-" if key[2] == "none" else "--"
            axes[0][column].plot(x, [max(row["error"], 1e-3) for row in rows], style, marker="o", ms=3, label=label)
            axes[1][column].plot(x, [row["noise"] for row in rows], style, marker="o", ms=3, label=label)
        axes[0][column].set_title(f"away from π_old by {way}")
        axes[1][column].set_xticks(range(1 + len(STALENESS)), [f"{kl:g}" for kl in (0.0, *STALENESS)])
        axes[1][column].set_xlabel("KL(π_θ‖π_old) of a reply, nats")
    for row, name in enumerate(("relative error of the mean gradient", "noise of one reply / |∇J|²")):
        axes[row][0].set_ylabel(name)
        for axis in axes[row]:
            axis.set_yscale("log")
            axis.grid(alpha=0.3)
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def update(page: Path, parts: dict[str, str]) -> None:
    """Replace what stands between <!-- NAME --> and <!-- /NAME -->."""
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
    parts = {
        "steps": table(records, "after RL", "fixed", "optimizer steps"),
        "random": table(records, "after RL", "fixed", "a random direction"),
        "old": table(records, "after RL", "old", "optimizer steps"),
        "crossings": crossings(records, "after RL", "fixed", "optimizer steps"),
        "deviations": deviations(records, "after RL", "fixed", "optimizer steps", 8192),
    }
    update(args.out / "estimators.md", parts)
    draw(records, args.out / "estimators.png")
    print(f"{len(records)} numbers, {time.monotonic() - began:.0f} s: {args.out / 'estimators.md'}, {args.records}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
