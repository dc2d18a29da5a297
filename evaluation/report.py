"""Tables and pictures of one or many evaluated models: python -m evaluation.report DIR... [--compare A B]."""

import sys

from evaluation.interruption import program

if __name__ == "__main__":
    kept = "evaluations are kept, the same command reports them"
    sys.exit(program("evaluation.report", "evaluation.commands.report", kept))
