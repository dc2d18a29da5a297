"""Argument parser of every command here: bad input ends the process with status 2 and one line."""

import argparse
import sys
from pathlib import Path
from typing import NoReturn


class OneLineParser(argparse.ArgumentParser):
    """Parser that prints an error in one line, without argparse's usage, and takes --max_tokens as --max-tokens."""

    def parse_known_args(self, args=None, namespace=None):
        """Differs from argparse's: flags may be written with underscores."""
        words = sys.argv[1:] if args is None else args
        return super().parse_known_args([self._with_dashes(word) for word in words], namespace)

    def _with_dashes(self, word: str) -> str:
        name, equals, value = word.partition("=")
        flag = name.replace("_", "-")
        return flag + equals + value if flag.startswith("--") and flag in self._option_string_actions else word

    def error(self, message: str) -> NoReturn:
        """Print the reason and exit."""
        self.exit(2, f"{self.prog}: error: {message}\n")


def folder(text: str) -> Path:
    """Type of a flag that names an output folder."""
    path = Path(text)
    for place in (path, *path.parents):
        if place.exists() and not place.is_dir():
            raise argparse.ArgumentTypeError(f"{place} is a file: give a folder")
    return path
