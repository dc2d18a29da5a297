"""Train with RPG on OpenRLHF: `python -m rpg_openrlhf.commands.train_rpg --config FILE.yaml --flag value ...`.

Every flag of `openrlhf.cli.train_ppo_ray` keeps its name and meaning; this project adds its own flags. A setting that
cannot work is refused in one line, with status 2, before Ray starts or a model is loaded.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import yaml

from rpg_openrlhf.errors import Refusal
from rpg_openrlhf.preflight import data, eval_sets, files
from rpg_openrlhf.preflight.eval_sets import EvalSets
from rpg_openrlhf.problems.prompt_sets import PromptSet
from rpg_openrlhf.runs import resuming as resume
from rpg_openrlhf.runs.lock import await_earlier
from rpg_openrlhf.settings import checks, layout, machine, reference_checks, run_names, upstream
from rpg_openrlhf.settings import defaults as settle
from rpg_openrlhf.settings import parser as flags
from rpg_openrlhf.settings.banner import banner
from rpg_openrlhf.settings.layers import nest


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
    parsed = flags.parse(argv)
    settle.fill_defaults(parsed)
    files.make_absolute(parsed.values)
    if parsed.print_config:
        print(as_yaml(parsed), end="")
        return 0
    platform = machine.resolve_platform(parsed.values["platform"])
    sources, sets, prompts, architecture, notes = _check(parsed, platform)
    if not parsed.dry_run:  # an earlier process of this run may still write a checkpoint
        await_earlier(Path(parsed.values["ckpt.path"]))
    record = resume.record(parsed.values, prompts, architecture, resume.fingerprints(parsed.values))
    resumption = resume.choose(parsed.values, record)
    args, more_notes = validate(parsed, platform)
    eval_sets.settle(args, sets)
    resume.settle(args, resumption, record, parsed.explicit)
    parsed.values[resume.RUN_NAME] = args.logger.wandb.run_name
    args.logger.config, args.logger.tags = resolved(parsed), run_names.tags(parsed.layers)
    block = banner(args, prompts, notes + more_notes + resumption.notes, eval_sets.facts(args, sets))
    resume.check_work_left(args, resumption, prompts)
    if resumption.finished:
        print(block, f"this run has already finished: nothing to do  ({args.ckpt.output_dir})", sep="\n")
        return 0
    if parsed.dry_run:
        from rpg_openrlhf.preflight.dry_run import report

        print(block, report(args, sources, sets.rows if sets else []), sep="\n")
        return 0
    _write_config(parsed, sets)
    print(block, flush=True)
    if launch is None:
        from rpg_openrlhf.launch.supervise import launch
    return launch(args)


def _check(
    parsed: flags.Parsed, platform: str
) -> tuple[list[PromptSet], EvalSets | None, int | None, dict, list[str]]:
    """Run every check -> training sets, evaluation sets, prompts per episode, config.json, notes."""
    values = parsed.values
    settings = checks.check_flags(parsed, platform)
    eval_sets.check_flags(values, parsed.explicit)
    run_names.check_wandb(values)
    files.check_cache()
    files.check_ray_address()
    architecture = files.check_models(values, parsed.dry_run)
    files.check_adapters(values)
    files.check_has_chat_template(values)
    files.check_reward(values)
    files.check_directories(values)
    sources = data.check_data(values)
    sets = eval_sets.read(values, sources)
    prompts = data.count_prompts(values, sources)
    notes = layout.check_last_rollout(settings, prompts) + reference_checks.check_run_length(settings, prompts)
    return sources, sets, prompts, architecture, notes + layout.notes_on_experts(architecture, platform)


def validate(parsed: flags.Parsed, platform: str) -> tuple[SimpleNamespace, list[str]]:
    """Checked flags -> upstream's nested args, with the launcher's own settings applied, and notes to print."""
    flat = argparse.Namespace(**{**parsed.values, "platform": platform})
    args, notes = upstream.validate(flat)
    args.num_gpus = layout.gpus_needed(args)
    args.rpg.on_policy = layout.is_on_policy(args) and args.rpg.old_policy == "recompute"
    return args, notes + settle.settle(args)


def resolved(parsed: flags.Parsed) -> dict:
    """All flags as a layer that reproduces the run, without the W&B key and flags that the objective refuses."""
    refused = (
        ("algo.kl.", "critic.")
        if parsed.values["algo.objective"] == "rpg"
        else ("rpg.", *(name for name in reference_checks.OURS if name != "ref.refresh"))
    )
    shown = {k: v for k, v in parsed.values.items() if k != resume.SECRET and not k.startswith(refused)}
    # Leave out values that follow from other flags: in a layer they would count as given by the user.
    if shown.get("actor.eps_clip_low_high"):
        shown.pop("actor.eps_clip")
    for name in {"ds.attn_implementation", "ref.refresh"} - parsed.explicit:
        shown.pop(name, None)
    return nest(shown)


def as_yaml(parsed: flags.Parsed) -> str:
    """The resolved flags as YAML text."""
    return yaml.safe_dump(resolved(parsed), sort_keys=False)


def _write_config(parsed: flags.Parsed, sets: EvalSets | None) -> None:
    run_dir = Path(parsed.values["logger.run_dir"])
    try:
        Path(parsed.values["ckpt.output_dir"]).mkdir(parents=True, exist_ok=True)
        run_dir.mkdir(parents=True, exist_ok=True)
        (run_dir / "config.yaml").write_text(as_yaml(parsed), encoding="utf-8")
        eval_sets.write(run_dir, sets)
    except OSError as error:
        raise Refusal(f"--logger.run_dir {run_dir}: cannot be written: {error}; give another directory") from None


if __name__ == "__main__":
    sys.exit(main())
