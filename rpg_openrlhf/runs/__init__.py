"""A run over its whole life: checkpoints, resuming, resharding, progress, loggers, evaluation, model card."""
