"""metrics.jsonl of a training run: reward, entropy and response length against the step."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

# A panel's name, and the keys under which the trainer may have logged it, the preferred one first.
KEYS = {
    "reward": ("rollout/reward_mean", "reward"),
    "entropy": ("entropy_loss", "entropy"),
    "response length": ("rollout/response_length_mean", "response_length"),
    "gradient norm": ("actor_grad_norm",),
}

Curve = tuple[list[float], list[float]]


def read(path: Path) -> list[dict]:
    """One dict per training step, in the order of steps.

    A resumed run may write a step twice: the later line counts. A last line cut off by a kill is left out; any other
    line that is not a step raises a ValueError that names it.
    """
    lines = path.read_bytes().split(b"\n")
    steps: dict[float, dict] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if row.get("kind", "train") == "train":
                steps[float(row["step"])] = row
        except (ValueError, KeyError, TypeError, AttributeError):
            if number == len(lines):  # no newline after it: cut off
                break
            raise ValueError(f"{path}:{number} is not a JSON object with `step`") from None
    return [steps[step] for step in sorted(steps)]


def curve(rows: Sequence[dict], panel: str) -> Curve:
    """Steps and values of a panel named in KEYS, over the steps that have it; empty lists where it was not logged."""
    steps, values = [], []
    for row in rows:
        value = next((row[key] for key in KEYS[panel] if isinstance(row.get(key), (int, float))), math.nan)
        if not math.isnan(value):
            steps.append(float(row["step"]))
            values.append(float(value))
    return steps, values
