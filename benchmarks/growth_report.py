"""Results of growth.py as tables and a figure, beside the estimate of memory for the same runs."""

from __future__ import annotations

import math
from pathlib import Path

LINES = {"generate": "#2166ac", "experience": "#d9741a", "train": "#3a8f5c", "trainer": "#6b7280"}
KINDS = {"policy rank": "#3a8f5c", "engine": "#2166ac", "trainer": "#d9741a", "driver": "#6b7280"}


def cpu_of(result: dict) -> dict[str, float]:
    """CPU seconds of a step: the engine's, the policy's in proportion to its two phases' times, the trainer's."""
    seconds, cpu = result["seconds"], result["cpu"]
    share = seconds["train"] / (seconds["train"] + seconds["experience"])
    policy = cpu["policy rank"]
    return {
        "generate": cpu["engine"],
        "experience": policy * (1 - share),
        "train": policy * share,
        "trainer": cpu["trainer"],
    }


def slope(xs: list[float], ys: list[float]) -> float:
    """Slope of the last two points, in logarithms: 1 is proportional."""
    return math.log(ys[-1] / ys[-2]) / math.log(xs[-1] / xs[-2])


def time_table(results: dict[str, dict], points: dict) -> str:
    head = ["model", "sequences", "tokens each", "ranks", "ZeRO", *(f"{name}, CPU s" for name in LINES)]
    head += ["generate, s", "experience, s", "train, s", "sync, s", "step, s", "load"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for name, point in points.items():
        result = results.get(name, {})
        if "seconds" not in result:
            continue
        cells = [point.model, f"{point.sequences:,}", f"{point.response:,}", str(point.ranks), str(point.zero)]
        cells += [f"{value:.2f}" for value in cpu_of(result).values()]
        cells += [f"{result['seconds'][phase]:.2f}" for phase in ("generate", "experience", "train")]
        cells += [f"{result['seconds']['sync']:.3f}", f"{result['seconds']['step']:.1f}"]
        lines.append("| " + " | ".join([*cells, f"{sum(result['load']) / 2:.0f}"]) + " |")
    return "\n".join(lines)


def memory_table(results: dict[str, dict], points: dict, predicted: dict[str, dict[str, float]]) -> str:
    """MiB of a policy rank and of an engine, measured and estimated."""
    head = ["model", "sequences", "tokens each", "ranks", "ZeRO"]
    for kind in ("policy rank", "engine", "trainer and driver"):
        head += [f"{kind}, MiB", "estimated", "ratio"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for name, point in points.items():
        if "seconds" not in results.get(name, {}):
            continue
        peaks = results[name]["peak_mib"]
        measured = [peaks["policy rank"], peaks["engine"], peaks["trainer"] + peaks["driver"]]
        cells = [point.model, f"{point.sequences:,}", f"{point.response:,}", str(point.ranks), str(point.zero)]
        for value, guess in zip(measured, predicted[name].values(), strict=True):
            cells += [f"{value:,.0f}", f"{guess:,.0f}", f"{guess / value:.2f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def predict_memory(words: list[str]) -> dict[str, float]:
    """MiB of the same kinds by the launcher's own estimate, for the flags of a run."""
    from transformers import AutoConfig

    from rpg_openrlhf.commands import train_rpg
    from rpg_openrlhf.settings import defaults as settle
    from rpg_openrlhf.settings import memory
    from rpg_openrlhf.settings import parser as flags

    parsed = flags.parse(words)
    settle.fill_defaults(parsed)
    args, _ = train_rpg.validate(parsed, "cpu")
    shapes = memory.count_shapes(AutoConfig.from_pretrained(args.actor.model_name_or_path), 0, False)
    lines = memory.estimate(args, shapes).lines
    engine = sum(gib for name, gib in lines if name.startswith("vLLM"))
    rank = sum(gib for _, gib in lines) - engine
    engine += memory.ENGINE_PROCESSES * memory.PROCESS_GIB
    return {"policy rank": 1024 * rank, "engine": 1024 * engine, "driver": 1024 * memory.DRIVER_GIB}


TITLES = {
    "sequences": ("sequences a step", "1M parameters, replies of 64 tokens"),
    "response": ("tokens of a reply", "1M parameters, 64 sequences"),
    "model": ("parameters", "64 sequences of 64 tokens"),
}


def draw(results: dict[str, dict], axes: dict, sizes: dict[str, float], estimated: dict, png: Path) -> None:
    """CPU seconds, and memory beside them, against batch, length and model; an axis without two points is left out.

    `axes`: points by axis and ranks.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    measured = {
        axis: {r: [p for p in points if "seconds" in results.get(p.name, {})] for r, points in by_ranks.items()}
        for axis, by_ranks in axes.items()
    }
    shown = [axis for axis in TITLES if len(measured[axis][1]) > 1]
    figure, panels = plt.subplots(len(shown), 2, figsize=(12, 5.2 * len(shown)), layout="constrained", squeeze=False)
    for axis, (times, memory) in zip(shown, panels, strict=True):
        label, setting = TITLES[axis]
        for ranks, points in measured[axis].items():
            xs = [sizes[p.model] if axis == "model" else getattr(p, axis) for p in points]
            _time_lines(times, xs, [cpu_of(results[p.name]) for p in points], ranks)
            _memory_lines(memory, xs, points, results, estimated, ranks)
        times.set(title=f"a step against {label} ({setting})", xlabel=label, ylabel="CPU seconds a step")
        memory.set(title=f"memory against {label}", xlabel=label, ylabel="peak resident memory, MiB")
    for panel in panels.flat:
        panel.set(xscale="log", yscale="log")
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(color="#e5e7eb", which="both", linewidth=0.5)
        panel.legend(frameon=False, fontsize=9, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.13))
    figure.suptitle("filled: one rank; open: two (memory: one of them). Number: slope of the last two points")
    figure.savefig(png, dpi=110)


def _style(ranks: int, color: str) -> dict:
    if ranks == 1:
        return {"color": color, "linestyle": "-", "marker": "o"}
    return {"color": color, "linestyle": ":", "marker": "s", "markerfacecolor": "white"}


def _time_lines(panel, xs: list[float], found: list[dict[str, float]], ranks: int) -> None:
    for name, color in LINES.items():
        ys = [seconds[name] for seconds in found]
        grows = f", {slope(xs, ys):.2f}" if len(xs) > 1 else ""
        panel.plot(xs, ys, label=name + grows if ranks == 1 else None, **_style(ranks, color))


def _memory_lines(panel, xs: list[float], points: list, results: dict, estimated: dict, ranks: int) -> None:
    for kind, color in KINDS.items():
        ys = [results[p.name]["peak_mib"][kind] for p in points]
        panel.plot(xs, ys, label=kind if ranks == 1 else None, **_style(ranks, color))
        if ranks == 1 and kind in ("policy rank", "engine"):
            guess = [estimated[p.name][kind] for p in points]
            panel.plot(xs, guess, "--", color=color, linewidth=1, alpha=0.6, label=f"{kind}, estimated")
