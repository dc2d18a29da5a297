"""Checkpoints to numbers: sample, grade, report, joined by files. Never imports the trainer."""
