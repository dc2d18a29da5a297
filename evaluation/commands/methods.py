"""evaluation.methods: Last and Best over seeds, every pair of methods, six panels, and a page that describes them."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from evaluation.command_line import OneLineParser, folder
from evaluation.pages import folders, methods, reading, table
from evaluation.pages.folders import Run
from evaluation.pages.methods import Method
from evaluation.pages.table import Table, markdown, to_markdown, to_text
from evaluation.pages.tables import benchmarks_of
from evaluation.store import write_text


def build(places: Sequence[Path], output: Path, title: str, start_folder: Path | None = None) -> Table:
    """Write page, panels and tables; return the main table. ValueError if there is nothing to compare."""
    # Imported late: --help and a refused flag should not wait for matplotlib.
    from evaluation.pages import panels
    from evaluation.pages.figures import write_pngs

    compared = methods.by_method(folders.find(places).series)
    if not compared:
        raise ValueError(f"{places[0]} holds no series of checkpoints: evaluate runs with --checkpoints and --label")
    start = _start(start_folder)
    main = methods.last_best(compared)
    names = benchmarks_of(methods.runs_of(compared))
    paired = {name: pairs for name in (*names, methods.REWARD) if (pairs := methods.pairs(compared, name))}
    tables = [main, *(methods.pair_table(pairs, name) for name, pairs in paired.items())]
    output.mkdir(parents=True, exist_ok=True)
    write_pngs(panels.of_methods(compared, start), output)
    table.write(tables, output / "tables")
    scores = {name: start.benchmarks[name]["mean"]["value"] for name in names if start and name in start.benchmarks}
    parts = [f"# {markdown(title)}", _size(compared, scores)]
    for name, pairs in paired.items():
        parts.append(f"{markdown(name).capitalize()}, from the highest down: {reading.ranking(compared, name)}.")
        parts.append(_list(reading.differences(pairs, name)))
    parts += [_list(reading.broken(compared, name, scores.get(name))) for name in names]
    parts += ["![Curves over seeds](methods.png)", *(to_markdown(each).strip() for each in tables)]
    write_text(output / "methods.md", "\n\n".join(parts) + "\n")
    return main


def _list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {markdown(line)}" for line in lines)


def _start(folder: Path | None) -> Run | None:
    if folder is None:
        return None
    run = folders.read_run(folder) if folder.is_dir() else None
    if run is None:
        raise ValueError(f"--start {folder}: holds no evaluated model")
    return run


def _size(compared: Sequence[Method], start: Mapping[str, float]) -> str:
    """Sentences with the numbers of methods, runs and rollouts, and the start model's scores."""
    counts = sorted({len(method.runs) for method in compared})
    runs = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    steps = sorted({run.step for run in methods.runs_of(compared) if run.step})
    text = f"{len(compared)} methods, {runs} runs of each, evaluated after {', '.join(map(str, steps))} rollouts."
    scores = [f"{score:.3f}" for score in start.values()]
    return text + (f" They begin from one model, which scores {', '.join(scores)}." if scores else "")


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """The command line. Bad input ends the process with status 2 and one line."""
    parser = OneLineParser(
        prog="evaluation.methods",
        description="Methods over seeds: series labelled METHOD-seedN, as examples/scripts/compare.sh labels them.",
        allow_abbrev=False,
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="folders of evaluated runs")
    parser.add_argument("--output", type=folder, required=True, metavar="DIR", help="output folder")
    parser.add_argument("--start", type=Path, metavar="DIR", help="evaluation of the model that all runs began from")
    parser.add_argument("--title", default="Methods over seeds", help="title of the page (%(default)s)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Write, then print the main table and the files' paths; return 0, 1 (cannot write) or 2 (bad input)."""
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
