"""Evaluation of checkpoints: sample, grade and report, three programs joined by files. Never imports the trainer."""
