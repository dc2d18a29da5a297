"""Upstream's own argument parser and validation, taken from the source of `openrlhf.cli.train_ppo_ray`.

Both are in that module's `if __name__ == "__main__"` block, and importing the module imports Ray, DeepSpeed and vLLM.
So this module executes parts of its source: the statements up to `args = parser.parse_args()` build the parser, those
from there to `train(args)` validate.
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from rpg_openrlhf.errors import Refusal

VERSION = "0.11.2"
CHANGED = f"openrlhf's cli/train_ppo_ray.py differs from that of version {VERSION}: install openrlhf=={VERSION}"


class Parser(argparse.ArgumentParser):
    """Upstream's ArgumentParser(), except that errors are raised and no flag may be abbreviated."""

    def __init__(self) -> None:
        super().__init__(prog="python -m rpg_openrlhf.commands.train_rpg", allow_abbrev=False)

    def error(self, message: str) -> Any:
        raise Refusal(message.removeprefix("argument "))


def _source(relative: str) -> Path:
    spec = importlib.util.find_spec("openrlhf")  # the top package is empty: finding it imports nothing
    if spec is None or not spec.submodule_search_locations:
        raise Refusal(f"openrlhf is not installed: pip install openrlhf=={VERSION}")
    return Path(spec.submodule_search_locations[0], relative)


def main_block() -> tuple[list[ast.stmt], list[ast.stmt]]:
    """Upstream's main block as two lists of statements: those that build the parser, those that validate."""
    path = _source("cli/train_ppo_ray.py")
    statements = ast.parse(path.read_text()).body
    blocks = [node for node in statements if isinstance(node, ast.If) and "__main__" in ast.unparse(node.test)]
    body = blocks[0].body if len(blocks) == 1 else []
    parse = [i for i, node in enumerate(body) if ast.unparse(node) == "args = parser.parse_args()"]
    if len(parse) != 1 or ast.unparse(body[-1]) != "train(args)":
        raise Refusal(CHANGED)
    return body[: parse[0]], body[parse[0] + 1 : -1]


def _execute(statements: list[ast.stmt], names: dict[str, Any]) -> dict[str, Any]:
    code = compile(ast.Module(body=statements, type_ignores=[]), "openrlhf/cli/train_ppo_ray.py", "exec")
    exec(code, names)
    return names


def build_parser() -> Parser:
    """Upstream's parser with every flag of train_ppo_ray, as our Parser class."""
    fake_argparse = SimpleNamespace(ArgumentParser=Parser)
    return _execute(main_block()[0], {"argparse": fake_argparse, "datetime": datetime})["parser"]


def validate(flat: argparse.Namespace) -> tuple[SimpleNamespace, list[str]]:
    """Upstream's hierarchize, asserts and defaulting over parsed flags -> (nested args, what upstream would print)."""
    hierarchize = _execute(ast.parse(_source("utils/config.py").read_text()).body, {})["hierarchize"]
    # Importing openrlhf.utils would import torch and transformers; the function itself needs neither.
    statements = [
        n for n in main_block()[1] if not (isinstance(n, ast.ImportFrom) and n.module == "openrlhf.utils.config")
    ]
    notes: list[str] = []
    names = {"args": flat, "hierarchize": hierarchize, "print": lambda *words: notes.append(" ".join(map(str, words)))}
    try:
        return _execute(statements, names)["args"], notes
    except AssertionError as error:
        raise Refusal(f"OpenRLHF refuses: {' '.join(str(error).split())}") from None
    except ImportError as error:
        raise Refusal(f"OpenRLHF needs a package that is not installed: {error}") from None
