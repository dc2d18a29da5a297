"""Loggers for W&B and TensorBoard, with the names and steps of metrics.jsonl.

Upstream's loggers put `train/` or `eval/` before every name, define a W&B step for evaluations that is never logged,
and send Python objects as text in the configuration.
"""

import os
from pathlib import Path
from types import SimpleNamespace

STEP = "step"  # rollouts trained on
SAMPLE = "generated_samples"  # a text and its reward; not a number, so metrics.jsonl lacks it


class WandbLog:
    """Replacement of upstream's WandbLogger. `WANDB_MODE` decides whether data leaves the machine."""

    def __init__(self, args: SimpleNamespace):
        import wandb

        chosen = args.logger.wandb
        if not wandb.api.api_key:
            wandb.login(key=chosen.key)
        self.wandb, extra_tags = wandb, os.environ.get("WANDB_TAGS", "")
        self.run = wandb.init(
            entity=chosen.org,
            project=chosen.project,
            group=chosen.group,
            name=chosen.run_name,
            tags=list(dict.fromkeys([*args.logger.tags, *filter(None, extra_tags.split(","))])),
            config=args.logger.config,
        )
        # W&B's own step counts calls and must not decrease, but a resumed run repeats steps.
        self.run.define_metric(STEP, hidden=True)
        self.run.define_metric("*", step_metric=STEP, step_sync=True)

    def log_train(self, global_step: int, logs_dict: dict) -> None:
        """Log a step's numbers, and one of its samples as a table."""
        sample = logs_dict.get(SAMPLE)
        table = {SAMPLE: self.wandb.Table(columns=["text", "reward"], data=[list(sample)])} if sample else {}
        self.run.log({**numbers(logs_dict), **table, STEP: global_step})

    def log_eval(self, global_step: int, logs_dict: dict) -> None:
        """Log an evaluation's numbers."""
        self.run.log({**numbers(logs_dict), STEP: global_step})

    def close(self) -> None:
        """Send the remaining data."""
        self.run.finish()


class TensorboardLog:
    """Replacement of upstream's TensorboardLogger. A resumed run hides the steps that it repeats."""

    def __init__(self, args: SimpleNamespace):
        from torch.utils.tensorboard import SummaryWriter

        folder = Path(args.logger.tensorboard_dir, args.logger.wandb.run_name)
        first_step = args.ckpt.resumed_step + 1 if args.ckpt.load_enable else None
        self.writer = SummaryWriter(log_dir=str(folder), purge_step=first_step)

    def log_train(self, global_step: int, logs_dict: dict) -> None:
        """Log a step's numbers, and one of its samples as text."""
        self.log_eval(global_step, logs_dict)
        if logs_dict.get(SAMPLE):
            text, reward = logs_dict[SAMPLE]
            self.writer.add_text(SAMPLE, f"{text}\n\nReward: {reward:.4f}", global_step)

    def log_eval(self, global_step: int, logs_dict: dict) -> None:
        """Log an evaluation's numbers."""
        for name, value in numbers(logs_dict).items():
            self.writer.add_scalar(name, value, global_step)
        self.writer.flush()  # so that a killed run does not lose them

    def close(self) -> None:
        """Write the remaining data."""
        self.writer.close()


def numbers(logs_dict: dict) -> dict[str, float]:
    """Numeric values of a step, which all three logs hold."""
    return {name: float(value) for name, value in logs_dict.items() if isinstance(value, int | float)}
