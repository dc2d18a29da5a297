"""evaluation.report: report.html, summary.md, tables/ and figures/ of one or many evaluated models."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from evaluation.command_line import OneLineParser
from evaluation.pages import folders, series_tables, tables, training_log, verdict
from evaluation.pages.folders import Found, Run
from evaluation.pages.table_formats import markdown, to_csv, to_latex, to_markdown, to_text
from evaluation.pages.tables import Table
from evaluation.store import write_text

PAIRS = 7  # comparisons made unasked, each with the first model
FORMATS = {"csv": to_csv, "md": to_markdown, "tex": to_latex}


@dataclass(frozen=True)
class Written:
    """Files that a report left, and the table for a terminal."""

    page: Path
    paths: tuple[Path, ...]
    main_table: Table
    warnings: tuple[str, ...]


def write_report(
    places: Sequence[Path],
    output: Path,
    compare: tuple[str, str] | None = None,
    training_logs: Sequence[Path] = (),
) -> Path:
    """Everything, for the runs and series at or below `places`; the path of report.html.

    `compare` names two runs by label or folder; `training_logs` replace those that the series name, in their order.
    ValueError in one line where there is nothing to report or nothing to compare.
    """
    return build(places, output, compare, training_logs).page


def build(
    places: Sequence[Path],
    output: Path,
    compare: tuple[str, str] | None = None,
    training_logs: Sequence[Path] = (),
) -> Written:
    """Do the work of write_report, and return all that was written."""
    # Imported late: a mistyped folder should not wait for matplotlib.
    from evaluation.pages import page
    from evaluation.pages.figures import write_pngs

    found = folders.find(places)
    if len(training_logs) > len(found.series):
        raise ValueError(f"--training-log {training_logs[-1]}: there are {len(found.series)} series to give it to")
    comparisons, refusals = _comparisons(found, compare)
    content, written = _content(found, comparisons, refusals, training_logs)
    output.mkdir(parents=True, exist_ok=True)
    paths = _write_tables([*written, *comparisons], output / "tables")
    pngs = write_pngs(content.panels, output / "figures")
    summary, report = output / "summary.md", output / "report.html"
    if not (output / "settings.json").exists():  # a run folder has its own, which evaluation.scores.results writes
        write_text(summary, _summary(content, comparisons))
    write_text(report, page.render(content))
    return Written(report, (*pngs, *paths), tables.overview(found.finals), tuple(content.warnings))


def _content(found: Found, comparisons: Sequence[Table], refusals: Sequence[str], logs: Sequence[Path]):
    """The page's content, and every table that becomes files."""
    from evaluation.pages.heat_map import heat_maps
    from evaluation.pages.page import Content
    from evaluation.pages.pictures import pictures, shown_runs
    from evaluation.pages.sample_browser import carry

    rows, problems = _logs(found, logs)
    chosen = series_tables.choose(found)
    carried = carry(shown_runs(found))
    top = [series_tables.last_best(found, chosen), series_tables.corrected(chosen)] if chosen else []
    scores = tables.scores(found.finals)
    everything = tables.scores(found.all_runs)
    long = [everything] if len(everything.rows) > len(scores.rows) else []
    long = [Table("all_scores", "Every checkpoint", t.columns, t.rows, t.heads) for t in long]
    methods, passes = tables.methods(found), tables.pass_at_k(shown_runs(found))
    content = Content(
        title=_title(found),
        verdict=verdict.paragraph(found),
        warnings=[*verdict.warnings(found, problems), *refusals],
        tables=[*top, scores],
        details=[methods, passes, *long],
        comparisons=comparisons,
        comparison_note=series_tables.PAIRED,
        panels=pictures(found, rows, carried.lengths),
        heat_maps=heat_maps(found),
        carried=carried,
        runs=shown_runs(found),
    )
    return content, [*top, scores, methods, passes, *long]


def _title(found: Found) -> str:
    labels = [item.label for item in (*found.runs, *found.series)]
    return f"Evaluation of {labels[0]}" if len(labels) == 1 else f"Evaluation of {len(labels)} models"


def _logs(found: Found, given: Sequence[Path]) -> tuple[list[tuple[dict, ...]], list[str]]:
    """The training steps of every series, and why some have none. A log that a user names must be there and whole."""
    rows: list[tuple[dict, ...]] = []
    problems = []
    for path in given:
        if not path.is_file():
            raise ValueError(f"--training-log {path} does not exist")
        rows.append(tuple(training_log.read(path)))
    for path in (series.training_log for series in found.series[len(given) :]):
        rows.append(())
        if path is not None:
            try:
                rows[-1] = tuple(training_log.read(path))
            except FileNotFoundError:
                problems.append(f"the training log {path} is not there: no reward, entropy, response length")
            except (ValueError, OSError) as error:
                problems.append(f"the training log cannot be read: {error}")
    return rows, problems


def _comparisons(found: Found, asked: tuple[str, str] | None) -> tuple[list[Table], list[str]]:
    """The pair asked for; or each further model against the first, and why some could not be compared."""
    if asked:
        first, second = (folders.pick(found, name) for name in asked)
        return [series_tables.compare([(first, second)])], []
    runs: Sequence[Run] = found.finals
    if len(runs) == 1 and found.series:
        runs = found.ends
    pairs, refusals = [], []
    for run in runs[1 : PAIRS + 1]:
        try:
            series_tables.compare([(run, runs[0])])
            pairs.append((run, runs[0]))
        except ValueError as error:
            refusals.append(f"{run.label} and {runs[0].label} are not compared: {error}")
    return ([series_tables.compare(pairs)] if pairs else []), refusals


def _write_tables(written: Sequence[Table], folder: Path) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for table in written:
        for suffix, form in FORMATS.items():
            paths.append(folder / f"{table.name}.{suffix}")
            write_text(paths[-1], form(table).encode("utf-8", "replace").decode("utf-8"))
    return paths


def _summary(content, comparisons: Sequence[Table]) -> str:
    """summary.md: the page's words and tables, without pictures."""
    parts = [f"# {markdown(content.title)}", markdown(content.verdict)]
    if content.warnings:
        parts.append("\n".join(["**Read first**", "", *(f"- {markdown(line)}" for line in content.warnings)]))
    parts += [to_markdown(table).strip() for table in (*content.tables, *comparisons)]
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
    parser.add_argument("--output", type=Path, metavar="DIR", help="where to write (the one DIR, else ./report)")
    parser.add_argument("--compare", nargs=2, metavar=("A", "B"), help="A minus B, paired: labels or folders")
    parser.add_argument(
        "--training-log",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="metrics.jsonl, once for a series",
    )
    args = parser.parse_args(argv)
    if args.compare:  # a folder that is compared is part of the report
        args.folders += [Path(name) for name in args.compare if Path(name).is_dir()]
    if not args.folders:
        parser.error("name at least one DIR that `python -m evaluation.run --output DIR` wrote")
    args.output = args.output or (args.folders[0] if len(args.folders) == 1 else Path("report"))
    return args


def main(argv: list[str] | None = None) -> int:
    """Write, then print the main table and where everything is. 0, 1 (cannot write) or 2 (bad input)."""
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
