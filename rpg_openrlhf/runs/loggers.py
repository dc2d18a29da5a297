"""W&B and TensorBoard, under the names that metrics.jsonl has, over the same steps.

Upstream's loggers put `train/` or `eval/` before every name, give W&B a step for evaluations that nothing logs, and
as its configuration the text of Python objects.
"""

import os
from pathlib import Path
from types import SimpleNamespace

STEP = "step"  # rollouts trained on
SAMPLE = "generated_samples"  # a text and its reward, which no table of numbers has


class WandbLog:
    """Replacement of upstream's WandbLogger: `WANDB_MODE` decides whether anything leaves the machine."""

    def __init__(self, args: SimpleNamespace):
        import wandb

        chosen = args.logger.wandb
        if not wandb.api.api_key:
            wandb.login(key=chosen.key)
        self.wandb, more = wandb, os.environ.get("WANDB_TAGS", "")
        self.run = wandb.init(
            entity=chosen.org,
            project=chosen.project,
            group=chosen.group,
            name=chosen.run_name,
            tags=list(dict.fromkeys([*args.logger.tags, *filter(None, more.split(","))])),
            config=args.logger.config,
        )
        # W&B's own step counts calls. A resumed run repeats steps, which it would refuse.
        self.run.define_metric(STEP, hidden=True)
        self.run.define_metric("*", step_metric=STEP, step_sync=True)

    def log_train(self, global_step: int, logs_dict: dict) -> None:
        """A step's numbers, and one of its samples as a table."""
        sample = logs_dict.get(SAMPLE)
        table = {SAMPLE: self.wandb.Table(columns=["text", "reward"], data=[list(sample)])} if sample else {}
        self.run.log({**numbers(logs_dict), **table, STEP: global_step})

    def log_eval(self, global_step: int, logs_dict: dict) -> None:
        """An evaluation's numbers."""
        self.run.log({**numbers(logs_dict), STEP: global_step})

    def close(self) -> None:
        """Send what is left."""
        self.run.finish()


class TensorboardLog:
    """Replacement of upstream's TensorboardLogger: a resumed run hides the steps that it repeats."""

    def __init__(self, args: SimpleNamespace):
        from torch.utils.tensorboard import SummaryWriter

        folder = Path(args.logger.tensorboard_dir, args.logger.wandb.run_name)
        again = args.ckpt.resumed_step + 1 if args.ckpt.load_enable else None
        self.writer = SummaryWriter(log_dir=str(folder), purge_step=again)

    def log_train(self, global_step: int, logs_dict: dict) -> None:
        """A step's numbers, and one of its samples as a text."""
        self.log_eval(global_step, logs_dict)
        if logs_dict.get(SAMPLE):
            text, reward = logs_dict[SAMPLE]
            self.writer.add_text(SAMPLE, f"{text}\n\nReward: {reward:.4f}", global_step)

    def log_eval(self, global_step: int, logs_dict: dict) -> None:
        """An evaluation's numbers."""
        for name, value in numbers(logs_dict).items():
            self.writer.add_scalar(name, value, global_step)
        self.writer.flush()  # a run that is killed has them

    def close(self) -> None:
        """Write what is left."""
        self.writer.close()


def numbers(logs_dict: dict) -> dict[str, float]:
    """Numbers of a step that all three logs hold."""
    return {name: float(value) for name, value in logs_dict.items() if isinstance(value, int | float)}
