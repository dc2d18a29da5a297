"""Run every stand-alone benchmark, one table each, into one folder and page: `make bench`, `make bench-gpu`.

    python benchmarks/run.py --out out/bench                          # on this machine's CPU
    python benchmarks/run.py --out out/bench-gpu --device cuda        # the tables that need one GPU

An existing table is not measured again. A table that fails is named at the end and does not stop the others.
"""

import argparse
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from harness import ROOT, machine

PAGE = "tables.md"
SIZES = {False: "full", True: "quick"}


class Table(NamedTuple):
    """A program of this folder, its arguments, and further ones for a quick run, which take precedence."""

    name: str
    title: str
    arguments: str = ""
    quick: str = ""
    device: str = "cpu"
    program: str = ""  # if it is not the name

    def command(self, out: Path, is_quick: bool) -> list[str]:
        """Command line; its files are in `out`, where the program also writes its JSON."""
        files = {"model": out / "warm_up", "rl": out / "data/rl.jsonl", "held": out / "data/heldout.jsonl"}
        words = shlex.split(f"{self.arguments} {self.quick if is_quick else ''}".format(**files))
        return [f"benchmarks/{self.program or self.name}.py", "--out", str(out / f"{self.name}.json"), *words]


TASK = "--model {model} --data {rl}"  # the quickstart's model and sums, made once
TABLES = [
    Table("rollouts", "Rollouts", quick="--quick"),
    Table("weight_sync", "Weight sync", quick="--repeats 2"),
    Table("log_probs", "Log-probs and entropy", "--hidden 256,1024 --repeats 3",
          "--hidden 64 --tokens 128 --repeats 1 --dtypes fp32 --modes log-probs"),
    Table("data_path", "The data path", quick="--sizes 64 --repeats 1"),
    Table("data_path_long", "The data path, T = 4096", "--tokens 4096 --micro_batch_size 8 --sizes 2048 --repeats 3",
          "--sizes 16 --repeats 1", program="data_path"),
    Table("experience_and_train", "Experience and training against GRPO", quick="--repeats 1"),
    Table("start_up", "Start-up", f"start_up {TASK}", "--repeats 1", program="real_runs"),
    Table("fast_path", "Fast path against GRPO", f"fast_path {TASK}", "--rollouts 3 --repeats 1", program="real_runs"),
    Table("references", "Modes of a reference", f"references {TASK}", "--rollouts 2 --repeats 1", program="real_runs"),
    Table("asynchronous", "Asynchronous", f"asynchronous {TASK}", "--rollouts 3 --repeats 1", program="real_runs"),
    Table("lora", "LoRA", f"lora {TASK}", "--rollouts 2 --repeats 1", program="real_runs"),
    Table("reference_cost", "A reference's cost"),
    Table("evaluation_throughput", "Evaluation", "--model {model} --prompts {held}", "--limit 4 --n 2 --repeats 1"),
    Table("log_probs_gpu", "Log-probs and entropy", "--device cuda --tokens 8192,32768 --hidden 2560 --dtypes bf16",
          "--tokens 1024 --repeats 1", "cuda", "log_probs"),
    Table("weight_sync_gpu", "Packing and unpacking weights", "--device cuda", "--repeats 2", "cuda", "weight_sync"),
]  # fmt: skip


def prepare(out: Path, is_quick: bool) -> None:
    """Make the quickstart's warmed-up model and its sums unless they exist."""
    steps = ["--steps", "2"] if is_quick else []
    for result, script, words in (
        (out / "warm_up" / "warm_up.json", "warm_up.py", ["--out", out / "warm_up", "--seed", "1", *steps]),
        (out / "data" / "heldout.jsonl", "arithmetic.py", ["--out", out / "data", "--seed", "1"]),
    ):
        if not result.exists():
            with (out / "prepare.log").open("a", encoding="utf-8") as log:
                command = [sys.executable, f"examples/quickstart/{script}", *map(str, words)]
                subprocess.run(command, check=True, stdout=log, stderr=log)


def measure(command: list[str], log: Path, page: Path) -> int:
    """Run the command -> its exit status; on success its output from the first table on goes to `page`."""
    head = f"`python {shlex.join(command)}`\n\n{machine('cuda' if 'cuda' in command else 'cpu')}\n"
    with log.open("w", encoding="utf-8") as file:
        done = subprocess.run([sys.executable, *command], stdout=subprocess.PIPE, stderr=file, text=True)
        file.write(done.stdout)
    start = f"\n{done.stdout}".find("\n| ")
    if done.returncode or start < 0:
        return done.returncode or 1
    part = page.with_suffix(".part")
    part.write_text(f"{head}\n{done.stdout[start:].rstrip()}\n", encoding="utf-8")
    part.replace(page)
    return 0


def make(table: Table, out: Path, is_quick: bool) -> bool:
    """Make the table unless it exists, and print what happens; True if it exists now."""
    page, log, command = out / f"{table.name}.md", out / f"{table.name}.log", table.command(out, is_quick)
    if page.exists():
        print(f"{table.name}: skipped, {page} exists", flush=True)
        return True
    print(f"{table.name}: python {shlex.join(command)}", flush=True)
    begin = time.monotonic()
    try:
        if "{model}" in table.arguments:
            prepare(out, is_quick)
        status = measure(command, log, page)
    except subprocess.CalledProcessError as error:
        status, log = error.returncode, out / "prepare.log"
    end = f"FAILED with status {status}, see {log}" if status else f"done, {page}"
    print(f"{table.name}: {end} ({time.monotonic() - begin:.0f} s)", flush=True)
    return not status


def write_page(tables: list[Table], out: Path) -> None:
    """Write the page with all existing tables, in the order of the list."""
    parts = ["# Benchmarks\n"]
    for table in tables:
        file = out / f"{table.name}.md"
        text = file.read_text(encoding="utf-8") if file.exists() else "Not measured.\n"
        parts.append(f"## {table.title}\n\n{text}")
    (out / PAGE).write_text("\n".join(parts), encoding="utf-8")


def refusal(args: argparse.Namespace) -> str | None:
    """Problem of the command line, found before anything is measured."""
    known = [table.name for table in TABLES if table.device == args.device]
    for name in args.only or []:
        if name not in known:
            return f"--only {name}: no table of --device {args.device}; choose from {', '.join(known)}"
    size = args.out / "size"
    if size.exists() and size.read_text(encoding="utf-8") != SIZES[args.quick]:
        return f"--out {args.out}: has tables of {SIZES[not args.quick]} size; give another folder"
    if args.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            return f"--device cuda: torch {torch.__version__} sees no CUDA device; run it on a machine with one"
    return None


def main(argv: list[str] | None = None) -> int:
    """Measure; return 0 if every table exists, 1 if some failed, or 2 for bad flags."""
    parser = argparse.ArgumentParser(description="Every benchmark, one table each, in one folder.")
    parser.add_argument("--out", type=Path, required=True, help="folder of JSON, logs and tables; reused to resume")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="device of the tables (%(default)s)")
    parser.add_argument("--only", nargs="+", metavar="TABLE", help="(all)")
    parser.add_argument("--quick", action="store_true", help="small sizes for a trial; the numbers mean nothing")
    args = parser.parse_args(argv)
    if reason := refusal(args):
        print(f"error: {reason}", file=sys.stderr)
        return 2
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "size").write_text(SIZES[args.quick], encoding="utf-8")
    out = args.out.resolve()
    os.chdir(ROOT)
    out = out.relative_to(ROOT) if out.is_relative_to(ROOT) else out
    tables, failed = [table for table in TABLES if table.device == args.device], []
    for table in tables:
        if not args.only or table.name in args.only:
            failed += [] if make(table, out, args.quick) else [table.name]
            write_page(tables, out)
    print(f"{out / PAGE}: " + (f"without {', '.join(failed)}, which failed" if failed else "done"))
    return 1 if failed else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("interrupted; the same command resumes", file=sys.stderr)
        sys.exit(130)
