"""Sample, grade and report in one command; the same command again goes on where it stopped.

python -m evaluation.run --model PATH_OR_NAME --output DIR
python -m evaluation.run --checkpoints RUN_DIR --output DIR [--watch]
python -m evaluation.run --server http://host:port/v1 --model NAME --output DIR
"""

import sys

from evaluation.interruption import program

if __name__ == "__main__":
    kept = "finished samples are kept, the same command goes on"
    sys.exit(program("evaluation.run", "evaluation.commands.run", kept))
