"""Tables and pictures of one or many evaluated models: python -m evaluation.report DIR... [--compare A B]."""

import sys

from evaluation.interruption import program

if __name__ == "__main__":
    kept = "what was evaluated is kept, the same command reports it"
    sys.exit(program("evaluation.report", "evaluation.commands.report", kept))
