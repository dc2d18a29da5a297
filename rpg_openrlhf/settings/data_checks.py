"""Rules of the flags that name training data and evaluation sets. Their rows are read in preflight/."""

from __future__ import annotations

from rpg_openrlhf.problems.set_names import split_names
from rpg_openrlhf.settings import defaults
from rpg_openrlhf.settings.rules import rule, where
from rpg_openrlhf.settings.run_settings import Settings

NO_BEST = "none"  # upstream's word for no best checkpoint


def grades_by_default(s: Settings) -> bool:
    """True if the reward is this package's grader, which needs a gold answer."""
    return s.reward.remote_url == defaults.REWARD_FUNC


def _template(s: Settings) -> str | None:
    template = s.data.input_template
    if template is None:
        return None
    if s.data.apply_chat_template:
        return (
            f"--data.input_template {template!r}: is not used with --data.apply_chat_template; leave it out, "
            "or use --data.apply_chat_template=false"
        )
    try:
        fits = "{}" in template and template.format("prompt")
    except (KeyError, IndexError, ValueError, AttributeError, TypeError):
        fits = False
    if fits:
        return None
    return f"--data.input_template {template!r}: must contain {{}} for the prompt; double all other braces"


def _mixture(s: Settings) -> str | None:
    """Check the sets' probabilities: one each, positive, with sum 1, as the datasets library requires."""
    text = s.data.prompt_probs
    if text is None:
        return None
    try:
        probabilities = [float(part) for part in text.split(",")]
    except ValueError:
        return f"--data.prompt_probs {text}: must be numbers, one per data set"
    count = len(split_names(s.data.prompt_dataset))
    if len(probabilities) != count:
        return f"--data.prompt_probs {text}: {len(probabilities)} numbers for {count} data sets; give one each"
    if not all(0 < probability <= 1 for probability in probabilities) or abs(sum(probabilities) - 1) > 1e-6:
        return f"--data.prompt_probs {text}: must be above 0 and sum to 1, such as 0.7,0.3"
    return None


def _best_of_nothing(s: Settings) -> bool:
    return s.ckpt.best_metric_key not in ("", NO_BEST) and (s.eval.steps == -1 or not s.eval.dataset)


# fmt: off
DATA = (
    rule(lambda s: not s.data.prompt_dataset,
         "--data.prompt_dataset is missing: give a file (json, jsonl, csv, parquet, arrow), a folder or a hub id"),
    rule(lambda s: grades_by_default(s) and s.data.label_key is None,
         "--data.label_key is missing: the default reward grades against it; name the column of the gold answer"),
    _template,
    _mixture,
)
EVALUATION = (  # flags that have no effect or cannot work
    rule(lambda s: s.eval.dataset and s.eval.steps == -1 and "eval.steps" not in s.explicit,
         "--eval.dataset {eval.dataset}: would never be used; give --eval.steps, the number of rollouts "
         "between two evaluations"),
    rule(_best_of_nothing,
         "--ckpt.best_metric_key {ckpt.best_metric_key}: nothing is evaluated; give --eval.dataset and --eval.steps"),
    where(lambda s: s.eval.dataset and s.eval.temperature == 0,
        rule(lambda s: s.eval.n_samples_per_prompt > 1,
             "--eval.n_samples_per_prompt {eval.n_samples_per_prompt}: at --eval.temperature 0 all samples are the "
             "same; give 1, or a temperature above 0")),
)
