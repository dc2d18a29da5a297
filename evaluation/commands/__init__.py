"""Bodies of the commands, imported after the signal handlers are set: see interruption.py."""
