"""Paired comparison of two models on the same problems, so that the problems' difficulty cancels out.

Differences are A minus B. A row is one benchmark. Pure: the input is the content of results.json.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from evaluation.scores.intervals import EQUAL, RESAMPLES, SEED, bootstrap, holm, wilson
from evaluation.scores.metrics import FloatArray

EXACT_PROBLEMS = 13  # up to here all sign patterns are tried; above, random ones
SAMPLING = ("temperature", "top_p", "top_k", "max_tokens", "max_model_len", "dtype")
PROMPT = ("style", "chat_template", "system", "template")


class ComparisonError(ValueError):
    """Two runs whose difference would mean nothing, in one line."""


def compare(results_a: Mapping[str, Any], results_b: Mapping[str, Any]) -> dict[str, Any]:
    """A minus B on the benchmarks and problems that both have, by the shares of correct samples.

    -> {"benchmarks": {NAME: row}, "pooled": row | None, "warnings": [str]}; a row is as `paired` gives it plus
    "p_holm", Holm's correction over the benchmarks. `pooled` is the mean of the benchmarks' differences with
    equal weights, if there are two or more. ComparisonError if nothing can be compared.
    """
    names = [name for name in results_a["benchmarks"] if name in results_b["benchmarks"]]
    if not names:
        ours, theirs = (", ".join(results["benchmarks"]) or "none" for results in (results_a, results_b))
        raise ComparisonError(
            f"{_label(results_a)} and {_label(results_b)} share no benchmark: {ours} against {theirs}"
        )
    notes = _differing_settings(results_a["settings"], results_b["settings"])
    if results_a.get("grader") != results_b.get("grader"):
        notes.append("graded by different graders: run evaluation.grade on both folders")
    rows, differences = {}, []
    for name in names:
        values_a, values_b, unequal = _pair(name, results_a, results_b)
        notes += unequal
        differences.append(_difference(values_a, values_b))
        rows[name] = paired(values_a, values_b)
    for row, adjusted in zip(rows.values(), holm([row["p"] for row in rows.values()]), strict=True):
        row["p_holm"] = adjusted
    pooled = _pool(list(rows.values()), differences) if len(rows) > 1 else None
    return {"benchmarks": rows, "pooled": pooled, "warnings": notes}


def _difference(values_a: FloatArray, values_b: FloatArray) -> FloatArray:
    """Differences, rounded so that equal ones compare equal: 1/3 - 2/9 and 4/9 - 1/3."""
    return np.round(values_a - values_b, 12)


def paired(values_a: FloatArray, values_b: FloatArray) -> dict[str, Any]:
    """One row; values (P,) of the same problems in the same order, in [0, 1].

    -> {"problems", "a", "b", "difference", "low", "high", "p", "se_paired", "se_unpaired", "won", "lost", "tied"}.
    The interval resamples problems; p is two-sided, from swapping A and B within problems. se_unpaired is the error
    without pairing, so its excess over se_paired is the gain by pairing. Both errors are None with 1 problem.
    """
    difference = _difference(values_a, values_b)
    low, high = _interval([difference])
    size = len(difference)
    enough = size > 1
    return {
        "problems": size,
        "a": float(values_a.mean()),
        "b": float(values_b.mean()),
        "difference": float(difference.mean()),
        "low": low,
        "high": high,
        "p": sign_flip_p(difference),
        "se_paired": float(difference.std(ddof=1) / math.sqrt(size)) if enough else None,
        "se_unpaired": math.sqrt((values_a.var(ddof=1) + values_b.var(ddof=1)) / size) if enough else None,
        "won": int((difference > 0).sum()),
        "lost": int((difference < 0).sum()),
        "tied": int((difference == 0).sum()),
    }


def _interval(differences: Sequence[FloatArray]) -> tuple[float, float]:
    """Interval of the mean of the benchmarks' mean differences; problems are drawn within their benchmark.

    Percentiles, not BCa: if a few noisy problems carry the spread, BCa mistakes their random signs for skewness. It
    covered 90 % where percentiles covered 94 to 96 % (30 problems, 32 samples, no difference).
    """
    if all(np.ptp(d) < EQUAL for d in differences):
        # No spread to resample: bound the share of problems that may differ unseen, in either direction.
        half = wilson(0.0, sum(map(len, differences)))[1]
        centre = float(np.mean([d[0] for d in differences]))
        return max(centre - half, -1.0), min(centre + half, 1.0)
    # A benchmark with one problem cannot be resampled: it is added as a constant.
    moving = [d for d in differences if len(d) > 1]
    fixed = sum(float(d[0]) for d in differences if len(d) == 1)

    def mean_of_means(*parts: FloatArray, axis: int) -> FloatArray:
        return (np.asarray(sum(part.mean(axis=axis) for part in parts)) + fixed) / len(differences)

    interval = bootstrap(moving, mean_of_means, method="percentile")
    return interval.low, interval.high


def sign_flip_p(differences: FloatArray) -> float:
    """Two-sided p of the sum under random signs, exact for few problems; differences (P,).

    Problems without a difference are left out, since their sign has no effect. p is 1 if at most one is left, since
    both its signs are equally far from 0.
    """
    moving = differences[differences != 0]
    if moving.size < 2:
        return 1.0
    test = stats.permutation_test(
        (moving,),
        lambda x, axis: x.sum(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=2**EXACT_PROBLEMS if moving.size <= EXACT_PROBLEMS else RESAMPLES,
        batch=1000,
        rng=np.random.default_rng(SEED),
    )
    return float(test.pvalue)


def _pool(rows: Sequence[dict[str, Any]], differences: Sequence[FloatArray]) -> dict[str, Any]:
    """Means over benchmarks with equal weights, whatever their number of problems."""
    pooled: dict[str, Any] = {key: float(np.mean([row[key] for row in rows])) for key in ("a", "b", "difference")}
    pooled |= {key: sum(row[key] for row in rows) for key in ("problems", "won", "lost", "tied")}
    pooled["low"], pooled["high"] = _interval(differences)
    pooled["p"] = sign_flip_p(np.concatenate([d / len(d) for d in differences]))
    for key in ("se_paired", "se_unpaired"):
        errors = [row[key] for row in rows]
        pooled[key] = None if None in errors else math.hypot(*errors) / len(errors)
    return pooled


def _pair(name: str, results_a: Mapping, results_b: Mapping) -> tuple[FloatArray, FloatArray, list[str]]:
    """Values of the shared problems in the order of their ids, and warnings. ComparisonError if there are none."""
    labels = f"{_label(results_a)} and {_label(results_b)}"
    sources = [results["settings"].get("benchmarks", {}).get(name, {}) for results in (results_a, results_b)]
    if sources[0].get("sha256") != sources[1].get("sha256"):
        raise ComparisonError(f"{name}: {labels} read different files of it (sha256): sample both from one source")
    both = [results["benchmarks"][name]["per_problem"] for results in (results_a, results_b)]
    shared = sorted(both[0].keys() & both[1].keys())
    if not shared:
        raise ComparisonError(f"{name}: {labels} share no sampled problem: finish both runs")
    notes = []
    if len(shared) < max(map(len, both)):
        notes.append(f"{name}: compared on the {len(shared)} problems of both, of {len(both[0])} and {len(both[1])}")
    ours, theirs = ({problems[i]["n"] for i in shared} for problems in both)
    if ours != theirs:
        notes.append(f"{name}: {_span(ours)} samples a problem against {_span(theirs)}: same scale, unequal noise")
    values = [np.asarray([problems[i]["correct"] / problems[i]["n"] for i in shared]) for problems in both]
    return values[0], values[1], notes


def _differing_settings(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """A sentence for each setting that differs, and one if nothing differs, model and seed included."""
    notes = []
    for group, keys in (("sampling", SAMPLING), ("prompt", PROMPT)):
        for key in keys:
            ours, theirs = (settings.get(group, {}).get(key) for settings in (a, b))
            if ours != theirs:
                values = "" if key == "template" else f": {ours} against {theirs}"
                notes.append(f"{group} {key} differs{values}; the difference is not only the models'")
    same_model = a.get("model", {}).get("hash") is not None and a["model"]["hash"] == b.get("model", {}).get("hash")
    if same_model and a.get("sampling", {}).get("seed") == b.get("sampling", {}).get("seed") and not notes:
        notes.append("both are the same model with the same seed: expect no difference")
    return notes


def _label(results: Mapping[str, Any]) -> str:
    settings = results["settings"]
    return str(settings.get("label") or settings.get("model", {}).get("name") or "unnamed")


def _span(drawn: set[int]) -> str:
    return f"{min(drawn)}" if len(drawn) == 1 else f"{min(drawn)} to {max(drawn)}"
