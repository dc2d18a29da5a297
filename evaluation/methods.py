"""Compare methods over seeds: python -m evaluation.methods DIR... --output DIR [--start DIR]."""

import sys

from evaluation.interruption import program

if __name__ == "__main__":
    kept = "evaluations are kept, the same command compares them"
    sys.exit(program("evaluation.methods", "evaluation.commands.methods", kept))
