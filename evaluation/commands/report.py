"""evaluation.report: report.html, summary.md, tables/ and figures/ of one or many evaluated models."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from evaluation.command_line import OneLineParser, folder
from evaluation.pages import folders, table, tables, training_log, verdict
from evaluation.pages.folders import Found
from evaluation.pages.table import Table, markdown, to_markdown, to_text
from evaluation.store import write_text

if TYPE_CHECKING:
    from evaluation.pages.page import Content

PAIRS = 7  # comparisons without --compare, each with the first model


@dataclass(frozen=True)
class Written:
    """Result of a report: the page's path, the table for the terminal, and warnings."""

    page: Path
    main_table: Table
    warnings: tuple[str, ...]


def build(
    places: Sequence[Path],
    output: Path,
    compare: tuple[str, str] | None = None,
    training_logs: Sequence[Path] = (),
) -> Written:
    """Write everything for the runs and series at or below `places`.

    `compare` names two runs by label or folder; `training_logs` replace the series' own logs, in their order.
    ValueError in one line if there is nothing to report or to compare.
    """
    # Imported late: --help and a refused flag should not wait for matplotlib.
    from evaluation.pages import page
    from evaluation.pages.figures import write_pngs

    found = folders.find(places)
    if len(training_logs) > len(found.series):
        raise ValueError(f"--training-log {training_logs[-1]}: there are {len(found.series)} series, leave it out")
    comparisons, refusals = _comparisons(found, compare)
    content = _content(found, comparisons, refusals, training_logs)
    output.mkdir(parents=True, exist_ok=True)
    table.write([*content.tables, *content.details, *comparisons], output / "tables")
    write_pngs(content.panels, output / "figures")
    if not (output / "settings.json").exists():  # a run folder already has one, by evaluation.scores.results
        write_text(output / "summary.md", _summary(content))
    write_text(output / "report.html", page.render(content))
    return Written(output / "report.html", tables.overview(found.finals), tuple(content.warnings))


def _content(found: Found, comparisons: list[Table], refusals: Sequence[str], logs: Sequence[Path]) -> "Content":
    from evaluation.pages import panels
    from evaluation.pages.heat_map import heat_maps
    from evaluation.pages.page import Content
    from evaluation.pages.sample_browser import carry

    rows, problems = _logs(found, logs)
    runs = panels.shown_runs(found)
    chosen = tables.choose(found)
    carried = carry(runs)
    scores, everything = tables.scores(found.finals), tables.scores(found.all_runs)
    details = [tables.methods(found.finals), tables.pass_at_k(runs)]
    if len(everything.rows) > len(scores.rows):
        details.append(replace(everything, name="all_scores", caption="Every checkpoint"))
    labels = [member.label for member in (*found.runs, *found.series)]
    return Content(
        title=f"Evaluation of {labels[0] if len(labels) == 1 else f'{len(labels)} models'}",
        verdict=verdict.paragraph(found),
        warnings=[*verdict.warnings(found, problems), *refusals],
        tables=[*([tables.last_best(found, chosen), tables.corrected(chosen)] if chosen else []), scores],
        details=details,
        comparisons=comparisons,
        panels=panels.of_report(found, rows, carried.lengths),
        heat_maps=heat_maps(found),
        carried=carried,
        runs=runs,
    )


def _logs(found: Found, named: Sequence[Path]) -> tuple[list[tuple[dict, ...]], list[str]]:
    """Training steps of every series, and why some have none. A log that the user names must be readable."""
    rows: list[tuple[dict, ...]] = []
    problems = []
    for path in named:
        if not path.is_file():
            raise ValueError(f"--training-log {path} does not exist")
        rows.append(tuple(training_log.read(path)))
    for series in found.series[len(named) :]:
        path = series.training_log
        try:
            rows.append(tuple(training_log.read(path)) if path else ())
        except FileNotFoundError:
            rows.append(())
            problems.append(f"training log {path} does not exist: no curves of reward, entropy and response length")
        except (ValueError, OSError) as error:
            rows.append(())
            problems.append(f"the training log cannot be read: {error}")
    return rows, problems


def _comparisons(found: Found, asked: tuple[str, str] | None) -> tuple[list[Table], list[str]]:
    """Table of the requested pair, else of each further model against the first, and reasons for those left out."""
    if asked:
        first, second = (folders.pick(found, name) for name in asked)
        return [tables.compare([(first, second)])], []
    runs = found.ends if len(found.finals) == 1 and found.series else found.finals
    pairs, refusals = [], []
    for run in runs[1 : PAIRS + 1]:
        try:
            tables.compare([(run, runs[0])])
            pairs.append((run, runs[0]))
        except ValueError as error:
            refusals.append(f"{run.label} and {runs[0].label} are not compared: {error}")
    return ([tables.compare(pairs)] if pairs else []), refusals


def _summary(content: "Content") -> str:
    """summary.md: the page's text and tables, without pictures."""
    parts = [f"# {markdown(content.title)}", markdown(content.verdict)]
    if content.warnings:
        parts.append("\n".join(["**Read first**", "", *(f"- {markdown(line)}" for line in content.warnings)]))
    parts += [to_markdown(each).strip() for each in (*content.tables, *content.comparisons)]
    parts.append("Pictures, problems and samples: report.html. Tables as CSV and LaTeX: tables/.")
    return ("\n\n".join(parts) + "\n").encode("utf-8", "replace").decode("utf-8")


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """The command line. Bad input ends the process with status 2 and one line."""
    parser = OneLineParser(
        prog="evaluation.report",
        description="Tables and pictures of one or many evaluated models.",
        allow_abbrev=False,
    )
    parser.add_argument("folders", nargs="*", type=Path, metavar="DIR", help="run folders, series, or folders of them")
    parser.add_argument("--output", type=folder, metavar="DIR", help="output folder (the only DIR, else ./report)")
    parser.add_argument("--compare", nargs=2, metavar=("A", "B"), help="A minus B, paired: labels or folders")
    logs = {"type": Path, "action": "append", "default": [], "metavar": "FILE"}
    parser.add_argument("--training-log", help="metrics.jsonl of a series, in their order", **logs)
    args = parser.parse_args(argv)
    if args.compare:  # a folder that is compared is part of the report
        args.folders += [Path(name) for name in args.compare if Path(name).is_dir()]
    if not args.folders:
        parser.error("name at least one DIR that `python -m evaluation.run --output DIR` wrote")
    args.output = args.output or (args.folders[0] if len(args.folders) == 1 else Path("report"))
    return args


def main(argv: list[str] | None = None) -> int:
    """Write, then print the main table and the files' paths; return 0, 1 (cannot write) or 2 (bad input)."""
    args = parse_args(argv)
    try:
        written = build(args.folders, args.output, tuple(args.compare) if args.compare else None, args.training_log)
    except (ValueError, OSError) as error:
        print(f"evaluation.report: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1
    print(to_text(written.main_table))
    for line in written.warnings:
        print(f"WARNING: {' '.join(line.split())}")
    print()
    for name in ("report.html", "summary.md", "tables", "figures"):
        if (args.output / name).exists():
            print(f"  {name.partition('.')[0]:<8} {args.output / name}")
    return 0
