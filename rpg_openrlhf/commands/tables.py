"""Runs of the published tables, as layers: `python -m rpg_openrlhf.commands.tables [TABLE]` prints them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from rpg_openrlhf.errors import Refusal

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
TABLES = "tables.yaml"
HARDWARE = "hardware/8xh100"


class Run(NamedTuple):
    name: str  # name of its folder, the same in all tables that share the run
    method: str
    layers: list[str]  # paths below configs/, without .yaml
    evaluation: str  # the table's flags for evaluation.run


def read(configs: Path = CONFIGS) -> dict[str, Any]:
    try:
        return yaml.safe_load((configs / TABLES).read_text(encoding="utf-8"))
    except OSError as error:
        raise Refusal(f"--configs {configs}: {TABLES} cannot be read: {error.strerror}") from None


def runs(name: str, hardware: str | None = None, configs: Path = CONFIGS) -> list[Run]:
    """All runs of a table, in its order."""
    content = read(configs)
    table = content["tables"].get(name)
    if table is None:
        raise Refusal(f"TABLE {name}: must be one of {', '.join(content['tables'])}")
    hardware = hardware or table.get("hardware", HARDWARE)
    if not (configs / f"{hardware}.yaml").is_file():
        raise Refusal(f"--hardware {hardware}: {configs / hardware}.yaml does not exist; name a layer of {configs}")
    shared = [*table.get("common", content["common"]), *table["layers"]]
    setting = "-".join(Path(layer).name for layer in table["layers"])
    layers = {method: [*shared, *_layers(method, table, content), hardware] for method in table["runs"]}
    return [Run(f"{setting}/{method}", method, layers[method], table.get("evaluation", "")) for method in layers]


def _layers(method: str, table: dict[str, Any], content: dict[str, Any]) -> list[str]:
    """Layers of a method and of its variants (RPG-RKL+schedule-free). The ++ of REINFORCE++ is part of its name."""
    own = table["runs"] if isinstance(table["runs"], dict) else content["methods"]
    if method in own:
        return own[method]
    base, _, variant = method.rpartition("+")
    return [*_layers(base, table, content), *content["variants"][variant]]


def plan(name: str, hardware: str | None, configs: Path) -> str:
    """Text that lists the layers of a table's runs, one run per line."""
    table, rows = read(configs)["tables"], runs(name, hardware, configs)
    width = max(len(run.method) for run in rows)
    shared = [layer for layer in rows[0].layers if all(layer in run.layers for run in rows)]
    lines = [f"table {name}: {table[name]['title']}", f"  every run: {' + '.join(shared)}"]
    own = [" + ".join(layer for layer in run.layers if layer not in shared) for run in rows]
    lines += [f"  {run.method:<{width}}  {own[i]}" for i, run in enumerate(rows)]
    if rows[0].evaluation:
        lines.append(f"  evaluated with {rows[0].evaluation}")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Return the exit status: 0, or 2 for a refusal."""
    parser = argparse.ArgumentParser(prog="python -m rpg_openrlhf.commands.tables", description=__doc__)
    parser.add_argument("table", nargs="?", help="a table of configs/tables.yaml; without it, list the tables")
    parser.add_argument("--hardware", help=f"layer below configs/, such as hardware/8xh200 ({HARDWARE})")
    parser.add_argument("--configs", type=Path, default=CONFIGS, help="folder of the layers (the package's checkout)")
    plain = "print folder, layers and evaluation, tab-separated, for scripts"
    parser.add_argument("--plain", action="store_true", help=plain)
    args = parser.parse_args(argv)
    try:
        if args.table is None:
            print("\n".join(f"{name:<12} {table['title']}" for name, table in read(args.configs)["tables"].items()))
        elif args.plain:
            rows = runs(args.table, args.hardware, args.configs)
            print("\n".join(f"{run.name}\t{','.join(run.layers)}\t{run.evaluation}" for run in rows))
        else:
            print(plan(args.table, args.hardware, args.configs))
    except Refusal as refusal:
        print(f"tables: {refusal}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
