"""Tokens per second of the evaluation's engine and of a bare vLLM `generate`, on the same prompts.

    python benchmarks/evaluation_throughput.py --model MODEL --prompts DIR/problems.jsonl --n 8 --out bench.json

Ours is the engine as `evaluation.run` uses it: a LocalReplica that is kept full, a seed for every sample, each sample
returned as it finishes. Bare is one call of `vllm.LLM.generate`, once with the same seeds and once with n=K and no
seeds. The engines have the same settings, start before the clock and take turns; the first turn of each is a warm-up.
Tokens per second of CPU time are shown too, since they depend less on other load of the machine.
"""

import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path

import harness
from harness import Report, cpu_seconds, spread, table
from transformers import AutoTokenizer

from evaluation.sampling.engine_process import build
from evaluation.sampling.local_replica import LocalReplica
from evaluation.sampling.replicas import EngineSettings, Request

OURS, SEEDED, UNSEEDED = "evaluation", "bare generate, same seeds", "bare generate, n=K, no seeds"
FIELDS = ("prompt", "problem", "input")


def read_prompts(path: Path, model: str) -> list[list[int]]:
    """Token ids of each line's prompt."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
    return [tokenizer.encode(next(row[field] for field in FIELDS if field in row)) for row in rows]


def rates(work: Callable[[], int], cpu: Callable[[], float]) -> dict[str, float]:
    """Run `work`, which returns its number of tokens -> tokens, tokens per second and per CPU second."""
    begin, used = time.perf_counter(), cpu()
    tokens = work()
    return {"tokens": tokens, "clock": tokens / (time.perf_counter() - begin), "cpu": tokens / (cpu() - used)}


def run_ours(replica: LocalReplica, prompts: list[list[int]], n: int) -> int:
    """Sample every (prompt, sample) on a replica that is refilled as samples finish -> tokens."""
    waiting = [Request(("b", str(i), j), "", ids, i * n + j) for i, ids in enumerate(prompts) for j in range(n)]
    left, tokens, outstanding = len(waiting), 0, 0
    waiting.reverse()
    while left:
        batch = [waiting.pop() for _ in range(min(len(waiting), replica.capacity - outstanding))]
        if batch:
            replica.submit(batch)
        completions = replica.poll(1.0)
        outstanding += len(batch) - len(completions)
        left -= len(completions)
        tokens += sum(completion.tokens for completion in completions)
    return tokens


class Bare:
    """A vLLM `LLM` in its own process, where `start` builds it."""

    @classmethod
    def start(cls, settings: dict, log: Path) -> None:
        harness.end_with_parent()
        with log.open("ab") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        cls.settings, cls.llm = settings, build(settings)

    @classmethod
    def generate(cls, prompts: list[list[int]], n: int, seeded: bool) -> dict[str, float]:
        """Call `LLM.generate` once -> rates."""
        from vllm import SamplingParams

        common = {name: cls.settings[name] for name in ("temperature", "top_p", "top_k", "max_tokens")}
        asked = [{"prompt_token_ids": ids} for ids in prompts for _ in range(n if seeded else 1)]
        seeds = [SamplingParams(seed=i, **common) for i in range(len(asked))]
        params = seeds if seeded else SamplingParams(n=n, **common)

        def work() -> int:
            answers = cls.llm.generate(asked, params, use_tqdm=False)
            return sum(len(output.token_ids) for answer in answers for output in answer.outputs)

        return rates(work, cpu_seconds)


def rows_of(results: dict[str, list[dict[str, float]]]) -> Iterator[dict]:
    """A row per method: its rates, and the ratios of ours to it in each turn."""
    for method, turns in results.items():
        row = {"method": method, "tokens": turns[0]["tokens"]}
        for name, title in (("clock", "tokens/s"), ("cpu", "tokens / CPU s")):
            ratios = [ours[name] / other[name] for ours, other in zip(results[OURS], turns, strict=True)]
            row[title] = spread((turn[name] for turn in turns), 1)
            row[f"evaluation / this, by {name}"] = spread(ratios)
        yield row


def main() -> None:
    """Run, print the table, write the JSON."""
    parser = harness.flags(__doc__)
    parser.add_argument("--model", required=True, help="Hugging Face folder or name")
    parser.add_argument("--prompts", type=Path, required=True, help=f"JSONL with {', '.join(FIELDS)}")
    parser.add_argument("--n", type=int, default=8, help="samples of each prompt (%(default)s)")
    parser.add_argument("--limit", type=int, help="prompts to use")
    parser.add_argument("--max-tokens", type=int, default=128, help="(%(default)s)")
    args = parser.parse_args()
    prompts = read_prompts(args.prompts, args.model)[: args.limit]
    length = max(map(len, prompts)) + args.max_tokens
    settings = EngineSettings(model=args.model, max_tokens=args.max_tokens, max_model_len=length)
    # Both engines get the same cache, whatever memory is free when each starts.
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
    report, log = Report(args), args.out.with_suffix(".engines.log")
    replica = LocalReplica(settings, log)
    replica.start()
    while not replica.ready():
        time.sleep(0.2)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn, Bare.start, (asdict(settings), log)) as bare:
        ways = {
            OURS: lambda _: rates(
                lambda: run_ours(replica, prompts, args.n), lambda: cpu_seconds(replica.pid) + time.process_time()
            ),
            SEEDED: lambda _: bare.submit(Bare.generate, prompts, args.n, True).result(),
            UNSEEDED: lambda _: bare.submit(Bare.generate, prompts, args.n, False).result(),
        }
        results = report.in_turns(ways, warm=True)
    replica.close()
    report.show(table(rows_of(results)))


if __name__ == "__main__":
    main()
