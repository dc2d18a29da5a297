"""Argument parser of every command here: bad input ends the process with status 2 and one line."""

import argparse
from typing import NoReturn


class OneLineParser(argparse.ArgumentParser):
    """Parser that prints an error in one line; argparse's own prints the whole usage first."""

    def error(self, message: str) -> NoReturn:
        """Print the reason and exit."""
        self.exit(2, f"{self.prog}: error: {message}\n")
