"""results.json as a page of Markdown: warnings, settings in a line, scores with both intervals, lengths."""

from collections.abc import Iterator, Mapping
from typing import Any

HOW = (
    "In percent. 95 % intervals: *problems* is for other problems of the same kind (bootstrap over problems), *same "
    "problems* for the same problems sampled again. pass@k is unbiased (Chen et al. 2021); best@k draws with "
    "replacement, as verl does and as the paper's Pass@32; strict asks for the prompt's own answer form."
)


def summary_markdown(results: Mapping[str, Any]) -> str:
    """The text of summary.md."""
    settings, benchmarks = results["settings"], results["benchmarks"]
    lines = [f"# {settings.get('label') or settings['model']['name']}", ""]
    if results["warnings"]:
        lines += [*(f"- **Warning**: {text}" for text in results["warnings"]), ""]
    lines += [settings_line(results), "", HOW, ""]
    lines += [
        "| benchmark | score | value | problems | same problems | problems counted |",
        "|---|---|--:|--:|--:|--:|",
    ]
    lines += [row for name, benchmark in benchmarks.items() for row in _score_rows(name, benchmark)]
    lines += [
        "",
        "| benchmark | tokens, mean | median | 95th percentile | longest | cut off | no answer | too costly |",
    ]
    lines += ["|---|--:|--:|--:|--:|--:|--:|--:|"]
    lines += [_length_row(name, benchmark) for name, benchmark in benchmarks.items()]
    return "\n".join(lines) + "\n"


def settings_line(results: Mapping[str, Any]) -> str:
    """Model, settings and provenance in one line; unknown parts are left out."""
    settings, provenance = results["settings"], results["provenance"]
    model, sampling, prompt = settings["model"], settings.get("sampling", {}), settings.get("prompt", {})
    chat = {True: "with chat template", False: "no chat template"}.get(prompt.get("chat_template"))
    versions = " ".join(f"{name} {version}" for name, version in (provenance.get("versions") or {}).items())
    speed = provenance.get("tokens_per_second")
    parts = [
        f"model {model['name']}",
        _known("step {}", model.get("step")),
        f"n {settings['n']}",
        *(_known(key.replace("_", "-") + " {}", sampling.get(key)) for key in ("temperature", "top_p", "top_k")),
        *(_known(key.replace("_", " ") + " {}", sampling.get(key)) for key in ("max_tokens", "seed")),
        _known("dtype {}", provenance.get("dtype") or sampling.get("dtype")),
        _known("prompt {}", prompt.get("style")),
        chat,
        _known("{} problems of each", settings.get("limit")),
        _known("grader {}", results.get("grader")),
        versions,
        _known("{:.0f} s", provenance.get("wall_seconds")),
        _known("{:.0f} tokens/s", speed),
    ]
    return ", ".join(part for part in parts if part)


def _known(form: str, value: Any) -> str | None:
    return None if value is None else form.format(value)


def percent(share: float | None) -> str:
    """Per cent as text: 0.1234 -> "12.3"."""
    return "–" if share is None else f"{100 * share:.1f}"


def _score_rows(name: str, benchmark: Mapping[str, Any]) -> Iterator[str]:
    low, high = benchmark["n_min"], benchmark["n_max"]
    n = f"{high}" if low == high else f"{low} to {high}"
    scores = {f"mean@{n}": benchmark["mean"], f"strict mean@{n}": benchmark["strict"]}
    scores |= {f"pass@{k}": score for k, score in benchmark["pass@k"].items() if k != "1"}
    scores |= {f"best@{k}": score for k, score in list(benchmark["best@k"].items())[-1:] if k != "1"}
    scores[f"maj@{n}"] = benchmark["majority"]
    if benchmark["clean"]:
        scores[f"mean@{n}, clean part"] = benchmark["clean"]["mean"]
    for label, score in scores.items():
        counted = f"{score['problems']} of {benchmark['planned_problems']}"
        over, again = _range(score["low"], score["high"]), _range(score["run_low"], score["run_high"])
        yield f"| {name} | {label} | {percent(score['value'])} | {over} | {again} | {counted} |"


def _range(low: float | None, high: float | None) -> str:
    return "–" if low is None else f"{percent(low)} to {percent(high)}"


def _length_row(name: str, benchmark: Mapping[str, Any]) -> str:
    tokens = benchmark["tokens"] or {}
    lengths = [f"{tokens[key]:.0f}" if tokens else "–" for key in ("mean", "median", "q95", "max")]
    rates = [percent(benchmark[key]) for key in ("truncated", "no_answer", "timeout")]
    return f"| {name} | {' | '.join([*lengths, *rates])} |"
