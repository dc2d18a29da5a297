"""Rollouts: OpenRLHF's vLLM actor and generator, and ours, on the same prompts in turns.

    python benchmarks/rollouts.py --out rollouts.json

dispatch    a prompt from the driver to the engine and back, one token sampled, with a tokenizer of 151,643 tokens:
            many in one call, and one by one, as dynamic sampling replaces prompts
front end   CPU of the Ray actor that holds the engine, per sampled token, with log-probs: 256 requests at a time
prefix      4 prompts of 2,000 tokens, 16 samples of each: prompt tokens that came out of the cache, CPU of the engine
dynamic     32 groups of 8 samples whose rewards differ, as those of every other prompt do; replies of any length

CPU seconds are of processes: the driver's, the actor's, and the engine's, which are the actor's children.
"""

import argparse
import json
import random
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import machine
from rollout_engines import OPENRLHF, OURS, Side, make_model, start_ray, start_sides, texts

QWEN3_TOKENS = 151_643
Turns = dict[str, list[dict[str, float]]]


def in_turns(sides: dict[str, Any], repeats: int, work: Callable[[Any, int], dict], name: str) -> Turns:
    """`work` by each side, `repeats` times, from the front and from the back; the first turn of each warms it."""
    found: Turns = {side: [] for side in sides}
    for turn in range(repeats + 1):
        for side in list(sides) if turn % 2 else reversed(sides):
            took = work(sides[side], turn)
            print(f"{name}, turn {turn}, {side}: {took['seconds']:.2f} s", flush=True)
            if turn:
                found[side].append(took)
    return found


def median(rows: list[dict[str, float]], value: Callable[[dict[str, float]], float]) -> dict[str, float]:
    values = [value(row) for row in rows]
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def dispatch(folder: Path, repeats: int, quick: bool) -> dict[str, dict]:
    """Milliseconds a prompt, by side and way."""
    from transformers import AutoTokenizer

    model = make_model(folder / "large_tokenizer", 4096 if quick else QWEN3_TOKENS)
    sides, count = start_sides(model, 256), 4 if quick else 16
    prompts = texts(AutoTokenizer.from_pretrained(model), count, 16, seed=0)
    results = {}
    for way, together in ((f"{count} in one call", True), ("one by one", False)):
        turns = in_turns(sides, repeats, lambda side, _, way=together: side.rollout(prompts, 1, 1, way), way)
        columns = {
            "driver CPU": "dispatch_cpu", "driver": "dispatch", "actor CPU": "actor_cpu", "there and back": "seconds",
        }  # fmt: skip
        for side, rows in turns.items():
            row = {c: median(rows, lambda took, k=key: 1e3 * took[k] / count) for c, key in columns.items()}
            results[f"{way}, {side}"] = {"way": way, "side": side, **row}
    return results


def front_end(folder: Path, repeats: int, quick: bool) -> dict[str, dict]:
    """Microseconds of CPU a sampled token, by side."""
    from transformers import AutoTokenizer

    model = make_model(folder / "small_tokenizer", 4096)
    sides, results = start_sides(model, 256), {}
    prompts = texts(AutoTokenizer.from_pretrained(model), 16, 16, seed=0)
    tokens = 32 if quick else 128
    for side, rows in in_turns(sides, repeats, lambda side, _: side.rollout(prompts, 16, tokens), "front end").items():
        results[side] = {
            "tokens": tokens, "side": side, "actor": median(rows, lambda r: 1e6 * r["actor_cpu"] / r["generated"]),
            "driver": median(rows, lambda r: 1e6 * r["driver_cpu"] / r["generated"]),
        }  # fmt: skip
    return results


def prefix(folder: Path, repeats: int, quick: bool) -> dict[str, dict]:
    """Share of repeated prompt tokens from the cache, and CPU of the engine, by side."""
    from transformers import AutoTokenizer

    small = {"hidden_size": 64} if quick else {"hidden_size": 512, "num_hidden_layers": 6, "intermediate_size": 1536}
    heads = {} if quick else {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 64}
    model = make_model(folder / "long_prompts", 4096, **small, **heads)
    sides, tokenizer, samples = start_sides(model, 2200), AutoTokenizer.from_pretrained(model), 16

    def work(side: Side, turn: int) -> dict[str, float]:
        return side.rollout(texts(tokenizer, 4 if turn else 1, 2048, seed=turn), samples, 32)

    def repeated(took: dict[str, float]) -> float:
        return took["cached"] / (took["prompted"] * (samples - 1) / samples)

    results = {}
    for side, rows in in_turns(sides, repeats, work, "prefix").items():
        results[side] = {
            "side": side, "cached": median(rows, repeated), "engine": median(rows, lambda r: r["engine_cpu"]),
            "seconds": median(rows, lambda r: r["seconds"]), "prompt": rows[0]["prompted"] / (4 * samples),
        }  # fmt: skip
    return results


def dynamic(folder: Path, repeats: int, quick: bool) -> dict[str, dict]:
    """Seconds of a rollout, by way: upstream's, and with our engine one for one and drawn ahead."""
    from transformers import AutoTokenizer

    model = make_model(folder / "replies_end", 256, eos_token_id=0)  # which one token in 256 is, as weights are random
    sides, (wanted, samples) = start_sides(model, 1024), (4, 4) if quick else (32, 8)
    prompts = texts(AutoTokenizer.from_pretrained(model), 20 * wanted, 16, seed=0)
    ways = {
        OPENRLHF: (sides[OPENRLHF], False),
        f"{OURS}, one for one": (sides[OURS], False),
        OURS: (sides[OURS], True),
    }

    def work(way: tuple[Side, bool], turn: int) -> dict[str, float]:
        draw = random.Random(turn)
        rows = [(draw.choice(prompts), draw.choice(("mixed", "easy"))) for _ in prompts]
        return way[0].keep_mixed(rows, wanted, samples, 64 if quick else 768, way[1])

    results = {}
    for way, taken in in_turns(ways, repeats, work, "dynamic").items():
        columns = {
            name: median(taken, lambda r, n=name: r[n]) for name in ("seconds", "drawn", "given_back", "generated")
        }
        results[way] = {"way": way, "wanted": wanted, **columns}
    return results


def cell(value: dict[str, float], digits: int) -> str:
    return "{median:.{d}f} [{low:.{d}f}, {high:.{d}f}]".format(**value, d=digits)


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def dispatch_table(found: dict[str, dict]) -> str:
    columns = ["driver CPU", "driver", "actor CPU", "there and back"]
    rows = [[r["way"], r["side"], *(cell(r[c], 2) for c in columns)] for r in found.values()]
    return table(["ms a prompt", "", *columns], rows)


def front_end_table(found: dict[str, dict]) -> str:
    rows = [[f"{r['tokens']:,}", r["side"], cell(r["actor"], 1), cell(r["driver"], 1)] for r in found.values()]
    return table(["tokens a sample", "", "actor CPU, µs a token", "driver CPU, µs a token"], rows)


def prefix_table(found: dict[str, dict]) -> str:
    rows = []
    for r in found.values():
        share = {name: 100 * value for name, value in r["cached"].items()}
        rows.append([r["side"], cell(share, 1), cell(r["engine"], 1), cell(r["seconds"], 1)])
    ratio = found[OPENRLHF]["engine"]["median"] / found[OURS]["engine"]["median"]
    head = ["", "repeated prompt tokens from the cache, %", "engine CPU, s", "seconds"]
    return table(head, rows) + f"\n\nEngine CPU: 1/{ratio:.1f}."


def dynamic_table(found: dict[str, dict]) -> str:
    head = ["", "seconds", "drawn for it", "given back", "sampled tokens"]
    rows = [[r["way"], cell(r["seconds"], 1), *(cell(r[c], 0) for c in ("drawn", "given_back", "generated"))]
            for r in found.values()]  # fmt: skip
    return table(head, rows)


PARTS = {"dispatch": (dispatch, dispatch_table), "front_end": (front_end, front_end_table),
         "prefix": (prefix, prefix_table), "dynamic": (dynamic, dynamic_table)}  # fmt: skip


def main() -> None:
    """Every part in a Ray of its own, so that one's engines do not stand in another's way."""
    parser = argparse.ArgumentParser(description="Rollouts: OpenRLHF's actor and ours, in turns.")
    parser.add_argument("--out", type=Path, required=True, help="JSON to write")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="(all)")
    parser.add_argument("--repeats", type=int, default=3, help="measured turns of each (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="small sizes, one turn: does it run")
    args = parser.parse_args()
    start_ray()
    import ray

    report: dict = {"machine": machine.describe(), "parts": {}}
    print(machine.in_words(report["machine"]), flush=True)
    for name in args.parts:
        measure, _ = PARTS[name]
        with tempfile.TemporaryDirectory() as folder:
            report["parts"][name] = measure(Path(folder), 1 if args.quick else args.repeats, args.quick)
        ray.shutdown()
        args.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        if name != args.parts[-1]:
            start_ray()
    print(*(PARTS[name][1](rows) for name, rows in report["parts"].items()), sep="\n\n")


if __name__ == "__main__":
    main()
