"""The evaluation's engine against a bare vLLM `generate`, on the same prompts: tokens per second.

    python benchmarks/evaluation_throughput.py --model MODEL --prompts DIR/problems.jsonl --n 8 --out bench.json

Ours is what `evaluation.run` drives: a LocalReplica that is kept full, a seed for every sample, each sample handed
over as it finishes. Bare is one call of `vllm.LLM.generate`, once with the same seeds, once with n=K and no seeds.
The engines start before the clock, have the same settings and take turns; the first turn of each warms it. Tokens per
second of CPU time stand beside those of the clock: they say the same on a machine that is busy with other things.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path

import psutil
from transformers import AutoTokenizer

from evaluation.sampling.engine_process import build
from evaluation.sampling.local_replica import LocalReplica
from evaluation.sampling.replicas import EngineSettings, Request

OURS, SEEDED, UNSEEDED = "evaluation", "bare generate, same seeds", "bare generate, n=K, no seeds"
FIELDS = ("prompt", "problem", "input")
Turn = tuple[int, float, float]  # tokens, seconds, CPU seconds of all processes that took part


def read_prompts(path: Path, model: str) -> list[list[int]]:
    """Token ids of each line's prompt."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
    return [tokenizer.encode(next(row[field] for field in FIELDS if field in row)) for row in rows]


def run_ours(replica: LocalReplica, prompts: list[list[int]], n: int) -> Turn:
    """Every (prompt, sample) through the replica, topped up as samples finish."""
    waiting = [Request(("b", str(i), j), "", ids, i * n + j) for i, ids in enumerate(prompts) for j in range(n)]
    left, tokens, started, used = len(waiting), 0, time.perf_counter(), cpu_seconds(replica.pid)
    own = time.process_time()
    waiting.reverse()
    outstanding = 0
    while left:
        batch = [waiting.pop() for _ in range(min(len(waiting), replica.capacity - outstanding))]
        if batch:
            replica.submit(batch)
        completions = replica.poll(1.0)
        outstanding += len(batch) - len(completions)
        left -= len(completions)
        tokens += sum(completion.tokens for completion in completions)
    used = cpu_seconds(replica.pid) - used + time.process_time() - own
    return tokens, time.perf_counter() - started, used


def cpu_seconds(pid: int | None) -> float:
    """Resources that a process and its children have used."""
    process, used = psutil.Process(pid), 0.0
    for member in (process, *process.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):  # a compiler, say, that ends meanwhile
            used += sum(member.cpu_times()[:2])
    return used


def bare_process(connection: Connection, settings: dict, prompts: list[list[int]], n: int, log: Path) -> None:
    """A vLLM `LLM` in a process of its own; each message is True for seeds, each answer tokens and seconds."""
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    llm = build(settings)
    from vllm import SamplingParams

    common = {name: settings[name] for name in ("temperature", "top_p", "top_k", "max_tokens")}
    connection.send("ready")
    while (seeded := connection.recv()) is not None:
        if seeded:
            asked = [{"prompt_token_ids": ids} for ids in prompts for _ in range(n)]
            params = [SamplingParams(seed=i, **common) for i in range(len(asked))]
        else:
            asked, params = [{"prompt_token_ids": ids} for ids in prompts], SamplingParams(n=n, **common)
        started, used = time.perf_counter(), cpu_seconds(None)
        answers = llm.generate(asked, params, use_tqdm=False)
        seconds = time.perf_counter() - started
        used = cpu_seconds(None) - used
        connection.send((sum(len(o.token_ids) for answer in answers for o in answer.outputs), seconds, used))


def spread(values: list[float]) -> dict[str, float]:
    """Median and range."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def summarize(turns: dict[str, list[Turn]]) -> dict[str, dict]:
    """Tokens per second and per CPU second of every method, and the ratios of ours to it, turn by turn."""
    results: dict[str, dict] = {}
    for method, found in turns.items():
        results[method] = {"tokens": found[0][0], "turns": found}
        for name, column in (("clock", 1), ("cpu", 2)):
            rates, ours = ([turn[0] / turn[column] for turn in these] for these in (found, turns[OURS]))
            ratios = [mine / other for mine, other in zip(ours, rates, strict=True)]
            results[method][name] = {"tokens_per_second": spread(rates), "ours_to_this": spread(ratios)}
    return results


def table(results: dict[str, dict]) -> str:
    """Markdown: medians with ranges."""
    names = ["method", "tokens", "tokens/s", "evaluation / this", "tokens / CPU s", "evaluation / this"]
    lines = ["| " + " | ".join(names) + " |", "|---" * len(names) + "|"]
    for method, row in results.items():
        cells = []
        for name in ("clock", "cpu"):
            cells.append("{median:.1f} [{low:.1f}, {high:.1f}]".format(**row[name]["tokens_per_second"]))
            cells.append("{median:.3f} [{low:.3f}, {high:.3f}]".format(**row[name]["ours_to_this"]))
        lines.append(f"| {method} | {row['tokens']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def measure(
    settings: EngineSettings, prompts: list[list[int]], n: int, repeats: int, log: Path, defaults: bool
) -> dict:
    """Turns of every method, the warming ones left out."""
    # The same cache for both, whatever memory is free when each starts.
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
    replica = LocalReplica(settings, log)
    replica.start()
    while not replica.ready():
        time.sleep(0.2)
    if defaults:
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "1"
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    bare = context.Process(target=bare_process, args=(theirs, asdict(settings), prompts, n, log))
    bare.start()
    theirs.close()
    ours.recv()

    def run_bare(seeded: bool) -> Turn:
        ours.send(seeded)
        return ours.recv()

    methods: dict[str, Callable[[], Turn]] = {
        OURS: lambda: run_ours(replica, prompts, n),
        SEEDED: lambda: run_bare(True),
        UNSEEDED: lambda: run_bare(False),
    }
    turns: dict[str, list[Turn]] = {method: [] for method in methods}
    for turn in range(repeats + 1):
        # In turn from the front and from the back: what changes slowly on the machine falls on all alike.
        for method in list(methods) if turn % 2 else reversed(methods):
            result = methods[method]()
            print(f"turn {turn}, {method}: {result[0] / result[1]:.1f} tokens/s", flush=True)
            if turn:
                turns[method].append(result)
    ours.send(None)
    bare.join()
    replica.close()
    return summarize(turns)


def main() -> None:
    """Run, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description="Tokens per second of the evaluation and of a bare vLLM generate.")
    parser.add_argument("--model", required=True, help="Hugging Face folder or name")
    parser.add_argument("--prompts", type=Path, required=True, help=f"JSONL with {', '.join(FIELDS)}")
    parser.add_argument("--out", type=Path, required=True, help="JSON to write; the engines' log stands beside it")
    parser.add_argument("--n", type=int, default=8, help="samples of each prompt (%(default)s)")
    parser.add_argument("--limit", type=int, help="prompts to use")
    parser.add_argument("--max-tokens", type=int, default=128, help="(%(default)s)")
    parser.add_argument("--max-num-seqs", type=int, default=256, help="decoded together (%(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="measured turns of each method (%(default)s)")
    parser.add_argument("--vllm-defaults", action="store_true", help="leave bare vLLM its own processes on a CPU")
    args = parser.parse_args()
    prompts = read_prompts(args.prompts, args.model)[: args.limit]
    settings = EngineSettings(
        model=args.model,
        max_tokens=args.max_tokens,
        max_model_len=max(map(len, prompts)) + args.max_tokens,
        max_num_seqs=args.max_num_seqs,
    )
    before = os.getloadavg()
    log = args.out.with_suffix(".log")
    results = measure(settings, prompts, args.n, args.repeats, log, args.vllm_defaults)
    setting = {"prompts": len(prompts), "n": args.n, "vllm_defaults": args.vllm_defaults, **asdict(settings)}
    load = {"before": before, "after": os.getloadavg(), "cores": os.cpu_count()}
    args.out.write_text(json.dumps({"settings": setting, "load": load, "results": results}, indent=1) + "\n")
    print(table(results))
    print(f"load average before and after, 1 min: {load['before'][0]:.2f}, {load['after'][0]:.2f}")


if __name__ == "__main__":
    main()
