"""Everything that a run reads, checked and counted before anything starts."""

from __future__ import annotations

from typing import Any, NamedTuple

from rpg_openrlhf.preflight import data, eval_sets, files
from rpg_openrlhf.problems.reading import fingerprint
from rpg_openrlhf.settings import layout, machine, paths, reference_checks
from rpg_openrlhf.settings.run_settings import Settings


class Inputs(NamedTuple):
    architecture: dict[str, Any]  # the policy's config.json
    training: data.Training
    evaluation: eval_sets.EvalSets | None
    fingerprints: dict[str, str]  # "flag path" -> of the content of every file and folder
    notes: list[str]


def inspect(s: Settings) -> Inputs:
    """Read what the flags name. A Refusal where a file cannot be used, or does not go with the settings."""
    models = files.check(s)
    training = data.read(s)
    evaluation = eval_sets.read(s, training.sets)
    fingerprints = {f"--{flag} {path}": fingerprint(path) for flag, path in paths.inputs(s.flags) if path.exists()}
    rollouts = None if training.prompts is None else layout.rollouts(s, training.prompts)
    layout.check_evaluation(s, rollouts)
    notes = layout.check_last_rollout(s, training.prompts)
    reference_checks.check_same_architecture(s.ref.model_name_or_path, models.reference, models.policy)
    notes += reference_checks.check_run_length(s, rollouts)
    notes += machine.notes_on_experts(models.policy, s.platform)
    return Inputs(models.policy, training, evaluation, fingerprints, notes)
