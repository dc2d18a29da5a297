"""Convert a raw problem set to training data in JSONL: `python -m rpg_openrlhf.commands.prepare_data SOURCE`.

SOURCE: dapo-math-17k or deepscaler (from the hub, or a copy with --input), arithmetic, gym:FAMILY, or a file (JSONL,
JSON, CSV, parquet, Arrow). Writes train.jsonl, validation.jsonl (with --validation), and DATA.md, which counts the
dropped rows.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NoReturn

from rpg_openrlhf.errors import Refusal
from rpg_openrlhf.problems import benchmarks, decontaminate, gym, output, pipeline
from rpg_openrlhf.problems.pipeline import NO_ANSWER
from rpg_openrlhf.problems.raw_sources import HUB, Source, open_source
from rpg_openrlhf.problems.reading import rows_of
from rpg_openrlhf.problems.rows import ANSWER_FIELDS, NO_TEXT, TEXT_FIELDS, Row


class Parser(argparse.ArgumentParser):
    """Raise errors, so that main can print them in one line; take --problem-key as --problem_key."""

    def parse_known_args(self, args=None, namespace=None):
        """Differs from argparse's: flags may be written with dashes."""
        words = sys.argv[1:] if args is None else args
        return super().parse_known_args([self._with_underscores(word) for word in words], namespace)

    def _with_underscores(self, word: str) -> str:
        name, equals, value = word.partition("=")
        flag = "--" + name.removeprefix("--").replace("-", "_")
        return flag + equals + value if name.startswith("--") and flag in self._option_string_actions else word

    def error(self, message: str) -> NoReturn:
        raise Refusal(message.removeprefix("argument "))


def build_parser() -> Parser:
    parser = Parser(prog="python -m rpg_openrlhf.commands.prepare_data", description=__doc__, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add, named = parser.add_argument, ", ".join(benchmarks.HUB)
    add("source", metavar="SOURCE", help=f"{', '.join(HUB)}, arithmetic, FILE, gym:FAMILY ({', '.join(gym.FAMILIES)})")
    add("--input", type=Path, help="local copy of the hub's file, read instead of downloading it")
    add("--revision", help="commit, tag or branch on the hub (its newest)")
    add("--output", type=Path, help="output folder (data/SOURCE)")
    add("--overwrite", action="store_true", help="replace the files of a previous run")
    add("--language", choices=("english", "any"), default="english", help="kept rows, judged by script (%(default)s)")
    kinds = "kept answers: integer, gradable (the grader accepts the answer as its own), or any"
    add("--answers", choices=("integer", "gradable", "any"), help=f"{kinds} (gradable; dapo-math-17k: integer)")
    add("--problem_key", help="column of the problem (found by its name)")
    add("--answer_key", help="column of the answer (found by its name)")
    add("--decontaminate", metavar="BENCHMARKS", help=f"files, folders, or {named}; separated by commas")
    add("--benchmark_dir", type=Path, help="folder with NAME.jsonl of the benchmarks named (the hub)")
    add("--validation", type=int, default=0, help="rows held out in validation.jsonl (%(default)s)")
    add("--prompt", choices=("published", "raw"), default="published", help="text around the problem (%(default)s)")
    add("--seed", type=int, default=0, help="seed for the rows held out or generated (%(default)s)")
    add("--rows", type=int, default=1024, help="arithmetic, gym: training rows (%(default)s)")
    add("--difficulty", type=int, help="arithmetic: digits (4); gym: level from 1 (the family's own setting)")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Return the exit status: 0, 1 if the disk fails, 2 for a refusal, 130 for Ctrl-C."""
    words = sys.argv[1:] if argv is None else argv
    try:
        args = build_parser().parse_args(words)
        _check(args)
        print(_prepare(args, " ".join(words)), end="")
    except (Refusal, OSError) as error:
        print(f"prepare_data: {' '.join(str(error).split())}", file=sys.stderr)
        return 2 if isinstance(error, Refusal) else 1
    except KeyboardInterrupt:
        return 130
    return 0


def _check(args: argparse.Namespace) -> None:
    generated = args.source == "arithmetic" or args.source.startswith("gym:")
    if args.difficulty is not None and not generated:
        raise Refusal(f"--difficulty {args.difficulty}: only arithmetic and gym: problems have one; leave it out")
    if args.input and args.source not in HUB:
        raise Refusal(f"--input {args.input}: is only for {', '.join(HUB)}; give the file itself as SOURCE")
    if args.revision and (args.input or args.source not in HUB):
        raise Refusal(f"--revision {args.revision}: nothing is read from the hub; leave it out")
    if args.benchmark_dir and not args.decontaminate:
        raise Refusal(f"--benchmark_dir {args.benchmark_dir}: has no effect without --decontaminate; leave it out")
    if args.rows < 1:
        raise Refusal(f"--rows {args.rows}: must be at least 1")
    if args.validation < 0:
        raise Refusal(f"--validation {args.validation}: must be at least 0")
    args.output = args.output or Path("data", Path(args.source.replace(":", "-")).stem)
    for place in (args.output, *args.output.parents):
        if place.exists() and not place.is_dir():
            raise Refusal(f"--output {args.output}: {place} is a file; give a folder")
    for name in (output.TRAIN, output.VALIDATION, output.REPORT):
        if (args.output / name).exists() and not args.overwrite:
            raise Refusal(f"--output {args.output}: holds {name} already; give another folder, or --overwrite")


def _prepare(args: argparse.Namespace, words: str) -> str:
    """Write the output files and return the text of DATA.md. Files have temporary names until all are complete."""
    source = open_source(args)
    chosen = pipeline.Settings(
        english=args.language == "english",
        answers=args.answers or source.answers,
        text_field=args.problem_key,
        answer_field=args.answer_key,
    )
    facts = [("command", f"`python -m rpg_openrlhf.commands.prepare_data {words}`"), *source.facts]
    facts += [("kept", f"language {args.language}, answers {chosen.answers}"), ("prompt", args.prompt)]
    index = None
    if args.decontaminate:
        names = [name.strip() for name in args.decontaminate.split(",") if name.strip()]
        index, sizes = decontaminate.benchmark_index(names, args.benchmark_dir)
        facts.append(("compared with", ", ".join(f"{name} ({size} problems)" for name, size in sizes.items())))
    args.output.mkdir(parents=True, exist_ok=True)
    try:
        counts = pipeline.Counts()
        problems = pipeline.distinct(source.rows, chosen, counts)
        rows = list(pipeline.sift(problems, chosen, index, counts))
        files = _write(args, rows, source, counts)
        text = output.report(args.source, facts, counts, files)
        output.publish(args.output, files, text)
    finally:
        output.remove_partial(args.output)
    return text


def _check_columns(args: argparse.Namespace, source: Source, counts: pipeline.Counts) -> None:
    """Refuse files of which no row has a problem, or none has an answer: their columns have other names."""
    kinds = (("a problem", "problem_key", NO_TEXT, TEXT_FIELDS), ("an answer", "answer_key", NO_ANSWER, ANSWER_FIELDS))
    for what, flag, reason, known in kinds:
        dropped = sum(number for each, number in counts.dropped.items() if each.startswith(reason))
        if source.files and dropped and dropped == counts.read:
            keys = [getattr(args, flag)] if getattr(args, flag) else known
            _, row = next(rows_of(source.files[0], "SOURCE", None))
            raise Refusal(
                f"{args.source}: no row has {what} in the column(s) {', '.join(keys)}; the first row has "
                f"{', '.join(map(str, row))}: give --{flag}"
            )


def _write(args: argparse.Namespace, rows: list[Row], source: Source, counts: pipeline.Counts) -> list[output.Written]:
    if len(rows) <= args.validation:
        _check_columns(args, source, counts)
        reasons = "; ".join(f"{number:,} {reason}" for reason, number in output.in_order(counts))
        raise Refusal(
            f"{args.source}: {len(rows):,} of {counts.read:,} rows remain, which must be more than "
            f"--validation {args.validation} ({reasons or 'none dropped'}); nothing is written"
        )
    parts = {output.TRAIN: rows}
    if args.validation:
        is_held = source.is_held or pipeline.held_out(rows, args.validation, args.seed)
        parts[output.TRAIN] = [row for row in rows if not is_held(row)]
        parts[output.VALIDATION] = [row for row in rows if is_held(row)]
    return [output.write_rows(args.output / name, part, args.prompt == "raw") for name, part in parts.items()]


if __name__ == "__main__":
    sys.exit(main())
