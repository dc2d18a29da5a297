"""Start of a run: supervise.py watches a child process, attempt.py; install.py rebinds upstream's names there."""
