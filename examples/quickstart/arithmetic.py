"""The quickstart's task: sums of two four-digit numbers from three disjoint sets, and two right reply formats.

    python arithmetic.py --out data --rl 1024 --heldout 250             the tiny character-level model's files
    python arithmetic.py --out data --rl 1024 --heldout 250 --chat      the same sums worded for a real model

Both reply formats are always right. `direct` states the sum at once, which so small a network cannot
compute; `worked` adds the columns from the right as carry + digit + digit, which it learns within a minute.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from rpg_openrlhf.problems.arithmetic import Problem, distinct, gold, prompt, worded
from rpg_openrlhf.problems.prompt import render_prompt

MAX_PROBLEMS = 100_000


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
    """Text of the problem: for the tiny model, or with `chat` worded for a real one."""
    return worded(problem) if chat else prompt(problem)


def rl_row(problem: Problem, chat: bool) -> dict[str, str]:
    """One row for the trainer, with the columns OpenRLHF is told to read."""
    if not chat:
        return {"input": prompt(problem), "label": gold(problem)}
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
    """Write both files and print their paths."""
    args = parse_args(argv)
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        for split, number, row in (("rl", args.rl, rl_row), ("heldout", args.heldout, benchmark_row)):
            path = args.out / f"{split}.jsonl"
            write_jsonl(path, [row(problem, args.chat) for problem in distinct(split, number, args.seed)])
            print(f"{path}: {number} problems")
    except OSError as error:
        print(f"arithmetic.py: error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
