"""Compare methods over seeds: python -m evaluation.methods DIR... --output DIR [--start DIR]."""

import sys

from evaluation.interruption import program

if __name__ == "__main__":
    kept = "what was evaluated is kept, the same command compares it"
    sys.exit(program("evaluation.methods", "evaluation.commands.methods", kept))
