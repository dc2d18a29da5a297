"""Grade stored samples, without an engine: python -m evaluation.grade DIR."""

import sys

from evaluation.interruption import program

if __name__ == "__main__":
    kept = "verdicts so far are kept, the same command resumes"
    sys.exit(program("evaluation.grade", "evaluation.commands.grade", kept))
