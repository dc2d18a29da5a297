"""The quickstart's task: sums of two four-digit numbers, their three disjoint sets, and two right ways to reply.

    python arithmetic.py --out data --rl 1024 --heldout 250             the tiny character-level model's files
    python arithmetic.py --out data --rl 1024 --heldout 250 --chat      the same sums worded for a real model

Both reply formats are always right. `direct` states the sum at once, which so small a network cannot compute in one
go; `worked` adds the columns from the right as carry + digit + digit, which it learns within a minute.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path

DIGITS = 4
SPLITS = ("warm_up", "rl", "heldout")
MAX_PROBLEMS = 100_000

Problem = tuple[int, int]


def split_of(problem: Problem) -> str:
    """The one set a sum belongs to: 50 % warm-up, 40 % RL, 10 % held out, whatever the seed.

    a+b and b+a hash alike, so no set holds the mirror image of another's problem.
    """
    low, high = sorted(problem)
    bucket = int.from_bytes(hashlib.sha256(f"{low}+{high}".encode()).digest()[:8], "big") % 10
    return "warm_up" if bucket < 5 else "rl" if bucket < 9 else "heldout"


def problems(split: str, seed: int) -> Iterator[Problem]:
    """Endless, seeded problems of one split; repeats are as rare as chance makes them (40 million pairs)."""
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, not {split!r}")
    rng = random.Random(f"{seed}:{split}")
    low, high = 10 ** (DIGITS - 1), 10**DIGITS - 1
    while True:
        problem = rng.randint(low, high), rng.randint(low, high)
        if split_of(problem) == split:
            yield problem


def distinct(split: str, count: int, seed: int) -> list[Problem]:
    """The first `count` different problems of a split."""
    found: dict[Problem, None] = {}
    for problem in problems(split, seed):
        if len(found) == count:
            break
        found[problem] = None
    return list(found)


def prompt(problem: Problem) -> str:
    """What the tiny model reads, e.g. `1234+5678=` and a newline."""
    return f"{problem[0]}+{problem[1]}=\n"


def gold(problem: Problem) -> str:
    """The right answer."""
    return str(sum(problem))


def direct_reply(problem: Problem) -> str:
    """The sum at once."""
    return f"Answer: {gold(problem)}"


def worked_reply(problem: Problem) -> str:
    """Column by column from the right, each `carry+digit+digit=two digits`, then the sum.

    1234+5678 is `0+4+8=12 1+3+7=11 1+2+6=09 0+1+5=06`, then `Answer: 6912` on its own line.
    """
    carry, columns = 0, []
    for a, b in zip(reversed(str(problem[0])), reversed(str(problem[1])), strict=True):
        total = carry + int(a) + int(b)
        columns.append(f"{carry}+{a}+{b}={total:02d}")
        carry = total // 10
    return " ".join(columns) + "\n" + direct_reply(problem)


def words(problem: Problem, chat: bool) -> str:
    """The problem as it is put to the tiny model, or worded for a real one."""
    return f"What is {problem[0]} + {problem[1]}?" if chat else prompt(problem)


def rl_row(problem: Problem, chat: bool) -> dict[str, str]:
    """One row for the trainer, with the columns OpenRLHF is told to read."""
    if not chat:
        return {"input": prompt(problem), "label": gold(problem)}
    # Imported late: without --chat this file needs nothing but the standard library.
    from rpg_openrlhf.prompts import render_prompt

    return {"input": render_prompt(words(problem, chat)), "label": gold(problem)}


def benchmark_row(problem: Problem, chat: bool) -> dict[str, str]:
    """One row for evaluation.run, which renders the prompt itself."""
    return {"id": f"{problem[0]}+{problem[1]}", "problem": words(problem, chat), "answer": gold(problem)}


def write_jsonl(path: Path, rows: list[dict[str, str]]) -> None:
    """Write under a temporary name and rename, so that a file which exists is whole."""
    partial = path.with_suffix(".partial")
    partial.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    partial.replace(path)


def count(text: str) -> int:
    """An argparse type: a whole number of problems that can be drawn quickly."""
    number = int(text) if text.isascii() and text.isdigit() else 0
    if not 1 <= number <= MAX_PROBLEMS:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 to {MAX_PROBLEMS}, not {text!r}")
    return number


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Write the quickstart's RL and held-out problems as JSONL.")
    parser.add_argument("--out", type=Path, required=True, help="folder for rl.jsonl and heldout.jsonl")
    parser.add_argument("--rl", type=count, default=1024, help="RL problems: rollout.batch_size x steps (%(default)s)")
    parser.add_argument("--heldout", type=count, default=250, help="held-out problems (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="which problems are drawn from each set (%(default)s)")
    parser.add_argument("--chat", action="store_true", help="word the problem for a real model and its chat template")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Write both files and say where."""
    args = parse_args(argv)
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        for split, number, row in (("rl", args.rl, rl_row), ("heldout", args.heldout, benchmark_row)):
            path = args.out / f"{split}.jsonl"
            write_jsonl(path, [row(problem, args.chat) for problem in distinct(split, number, args.seed)])
            print(f"{path}: {number} problems")
    except (OSError, ImportError) as error:
        print(f"arithmetic.py: error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
