"""Bodies of the commands, imported once their libraries may load: see interruption.py."""
