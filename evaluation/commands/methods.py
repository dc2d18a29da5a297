"""evaluation.methods: Last and Best over seeds, every pair of methods, the six panels, and a page that reads them."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from evaluation.command_line import OneLineParser
from evaluation.pages import folders, methods, reading
from evaluation.pages.folders import Run
from evaluation.pages.methods import Method
from evaluation.pages.table_formats import markdown, to_csv, to_latex, to_markdown, to_text
from evaluation.pages.tables import Table, benchmarks_of
from evaluation.store import write_text

FORMATS = {"csv": to_csv, "md": to_markdown, "tex": to_latex}


def build(places: Sequence[Path], output: Path, title: str, start_folder: Path | None = None) -> Table:
    """Write all of it and return the main table. ValueError in one line where there is nothing to compare."""
    # Imported late: a mistyped folder should not wait for matplotlib.
    from evaluation.pages.figures import write_pngs
    from evaluation.pages.method_figure import six_panels

    compared = methods.by_method(folders.find(places).series)
    if not compared:
        raise ValueError(f"{places[0]} holds no series of checkpoints: evaluate runs with --checkpoints and --label")
    start = _start(start_folder)
    main = methods.last_best(compared)
    names = benchmarks_of(run for method in compared for series in method.runs.values() for run in series.runs)
    paired = {name: methods.pairs(compared, name) for name in (*names, methods.REWARD)}
    tables = [main, *(methods.pair_table(pairs, name) for name, pairs in paired.items() if pairs)]
    output.mkdir(parents=True, exist_ok=True)
    write_pngs(six_panels(compared, start), output)
    for table in tables:
        for suffix, form in FORMATS.items():
            (output / "tables").mkdir(exist_ok=True)
            write_text(output / "tables" / f"{table.name}.{suffix}", form(table))
    parts = [f"# {markdown(title)}", _size(compared, start, names)]
    for name, pairs in paired.items():
        if pairs:
            parts.append(f"{markdown(name).capitalize()}, from the highest down: {reading.ranking(compared, name)}.")
            parts.append("\n".join(f"- {markdown(line)}" for line in reading.differences(pairs, name)))
    for name in names:
        began = start.benchmarks[name]["mean"]["value"] if start and name in start.benchmarks else None
        parts.append("\n".join(f"- {markdown(line)}" for line in reading.broken(compared, name, began)))
    parts += ["![Curves over seeds](methods.png)", *(to_markdown(table).strip() for table in tables)]
    write_text(output / "methods.md", "\n\n".join(parts) + "\n")
    return main


def _start(folder: Path | None) -> Run | None:
    if folder is None:
        return None
    run = folders.read_run(folder) if folder.is_dir() else None
    if run is None:
        raise ValueError(f"--start {folder}: holds no evaluated model")
    return run


def _size(found: Sequence[Method], start: Run | None, names: Sequence[str]) -> str:
    counts = sorted({len(method.runs) for method in found})
    runs = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    steps = sorted({run.step for m in found for series in m.runs.values() for run in series.runs if run.step})
    text = f"{len(found)} methods, {runs} runs of each, evaluated after {', '.join(map(str, steps))} rollouts."
    scores = [f"{start.benchmarks[name]['mean']['value']:.3f}" for name in names if start and name in start.benchmarks]
    return text + (f" They begin from one model, which scores {', '.join(scores)}." if scores else "")


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """The command line. Bad input ends the process with status 2 and one line."""
    parser = OneLineParser(
        prog="evaluation.methods",
        description="Methods over seeds: series labelled METHOD-seedN, as examples/scripts/compare.sh labels them.",
        allow_abbrev=False,
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="folders of evaluated runs")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="where to write")
    parser.add_argument("--start", type=Path, metavar="DIR", help="evaluation of the model that all runs began from")
    parser.add_argument("--title", default="Methods over seeds", help="of the page (%(default)s)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Write, then print the main table and where everything is. 0, 1 (cannot write) or 2 (bad input)."""
    args = parse_args(argv)
    try:
        table = build(args.folders, args.output, args.title, args.start)
    except (ValueError, OSError) as error:
        print(f"evaluation.methods: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1
    print(to_text(table))
    print()
    for name in ("methods.md", "methods.png", "tables"):
        print(f"  {name.partition('.')[0]:<8} {args.output / name}")
    return 0
