"""Sample, grade and report in one command; the same command again resumes.

python -m evaluation.run --model PATH_OR_NAME --output DIR
python -m evaluation.run --checkpoints RUN_DIR --output DIR [--watch]
python -m evaluation.run --server http://host:port/v1 --model NAME --output DIR
"""

import sys

from evaluation.interruption import program


def main() -> int:
    """Run the command in this process; return its exit status."""
    return program("evaluation.run", "evaluation.commands.run", "finished samples are kept, the same command resumes")


if __name__ == "__main__":
    sys.exit(main())
