"""The parser of every command here: bad input ends the process with status 2 and one line."""

import argparse
from typing import NoReturn


class OneLineParser(argparse.ArgumentParser):
    """argparse's own prints the whole usage before the reason."""

    def error(self, message: str) -> NoReturn:
        """The reason alone."""
        self.exit(2, f"{self.prog}: error: {message}\n")
