"""Train with RPG on OpenRLHF: `python -m rpg_openrlhf.commands.train_rpg --config FILE.yaml --flag value ...`.

Every flag of `openrlhf.cli.train_ppo_ray` keeps its name and meaning; this project adds its own flags. A setting that
cannot work is refused in one line, with status 2, before Ray starts or a model is loaded.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

from rpg_openrlhf.errors import Refusal
from rpg_openrlhf.preflight import eval_sets
from rpg_openrlhf.preflight.inputs import Inputs, inspect
from rpg_openrlhf.runs import resuming
from rpg_openrlhf.runs.lock import await_earlier
from rpg_openrlhf.settings import checks
from rpg_openrlhf.settings.arguments import arguments
from rpg_openrlhf.settings.banner import banner
from rpg_openrlhf.settings.defaults import complete
from rpg_openrlhf.settings.parser import parse
from rpg_openrlhf.settings.saved import as_yaml, resolved


def main(argv: list[str] | None = None, launch: Callable[[SimpleNamespace], int] | None = None) -> int:
    """Return the exit status: 0, 1 for a failed run, 2 for a refusal, 130 for Ctrl-C. Tests pass `launch`."""
    try:
        return _run(sys.argv[1:] if argv is None else argv, launch)
    except Refusal as refusal:
        print(f"train_rpg: {' '.join(str(refusal).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _run(argv: list[str], launch: Callable[[SimpleNamespace], int] | None) -> int:
    settings = complete(parse(argv))
    if settings.print_config:
        print(as_yaml(resolved(settings)), end="")
        return 0
    checks.check(settings)
    inputs = inspect(settings)
    if not settings.dry_run:  # an earlier process of this run may still write a checkpoint
        await_earlier(Path(settings.ckpt.path))
    resumption = resuming.choose(settings, inputs.training.prompts, inputs.architecture, inputs.fingerprints)
    args, notes = arguments(settings)
    resuming.settle(args, resumption, settings.explicit)
    evaluated = eval_sets.settle(args, inputs.evaluation)
    args.logger.config = resolved(settings, args.logger.wandb.run_name)
    args.logger.tags = list(settings.tags)
    notes = [*inputs.notes, *notes, *resumption.notes]
    block = banner(args, inputs.training.prompts, notes, evaluated)
    if resumption.finished:
        print(block, f"this run has already finished: nothing to do  ({args.ckpt.output_dir})", sep="\n")
        return 0
    if settings.dry_run:
        from rpg_openrlhf.preflight.dry_run import report

        text, status = report(args, inputs.training.sets, inputs.evaluation)
        print(block, text, sep="\n")
        return status
    _write_config(args, inputs)
    print(block, flush=True)
    if launch is None:
        from rpg_openrlhf.launch.supervise import launch
    return launch(args)


def _write_config(args: SimpleNamespace, inputs: Inputs) -> None:
    run_dir = Path(args.logger.run_dir)
    try:
        Path(args.ckpt.output_dir).mkdir(parents=True, exist_ok=True)
        run_dir.mkdir(parents=True, exist_ok=True)
        (run_dir / "config.yaml").write_text(as_yaml(args.logger.config), encoding="utf-8")
        eval_sets.write(run_dir, inputs.evaluation)
    except OSError as error:
        raise Refusal(f"--logger.run_dir {run_dir}: cannot be written: {error}; give another directory") from None


if __name__ == "__main__":
    sys.exit(main())
