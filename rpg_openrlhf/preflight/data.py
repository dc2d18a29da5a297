"""Checks of the training set: its rows, its mixture and the length of its prompts. problems/ reads the rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rpg_openrlhf.errors import Refusal
from rpg_openrlhf.problems.prompt_sets import Columns, PromptSet, read_sets, split_names
from rpg_openrlhf.settings import defaults as settle

FIRST_ROWS = 100  # rows per data set whose prompts are tokenized


def columns_of(flags: dict[str, Any]) -> Columns:
    return Columns(
        input_key=flags["data.input_key"],
        label_key=flags["data.label_key"],
        image_key=flags["data.image_key"],
        takes_messages=flags["data.apply_chat_template"],
        needs_label=flags["reward.remote_url"] == settle.REWARD_FUNC,
    )


def room_for_prompts(max_len: int, max_new_tokens: int | None) -> int:
    """Number of tokens left for the prompt."""
    return max_len - (max_new_tokens or 1)


def is_upstreams(flags: dict[str, Any]) -> bool:
    """True if upstream reads the data itself: from ModelScope's hub, or with images."""
    return flags["use_ms"] or flags["data.max_images_per_prompt"] > 0


def check_data(flags: dict[str, Any]) -> list[PromptSet]:
    """Read and check every row of the training sets; no sets if upstream reads them."""
    if not flags["data.prompt_dataset"]:
        raise Refusal(
            "--data.prompt_dataset is missing: give a file (json, jsonl, csv, parquet, arrow), a folder or a hub id"
        )
    columns = columns_of(flags)
    if columns.needs_label and columns.label_key is None:
        raise Refusal(
            "--data.label_key is missing: the default reward grades against it; name the column of the gold answer"
        )
    _check_template(flags)
    _check_mixture(flags, len(split_names(flags["data.prompt_dataset"])))
    if is_upstreams(flags):
        return []
    name, split = flags["data.prompt_dataset"], flags["data.prompt_split"]
    sets = read_sets("data.prompt_dataset", name, split, columns, flags["trust_remote_code"])
    prompts = count_prompts(flags, sets)
    if prompts is not None and prompts < flags["rollout.batch_size"]:
        raise Refusal(
            f"--rollout.batch_size {flags['rollout.batch_size']}: the data set has only {prompts} prompts, less than "
            "one rollout; lower it"
        )
    _check_room(flags, sets)
    return sets


def count_prompts(flags: dict[str, Any], sets: list[PromptSet]) -> int | None:
    """Number of prompts in an episode; a lower bound with --data.prompt_probs, as upstream then repeats small sets."""
    if not sets:
        return None
    return min(flags["data.max_samples"], sum(min(flags["data.max_samples"], len(part.rows)) for part in sets))


def _check_template(flags: dict[str, Any]) -> None:
    template = flags["data.input_template"]
    if template is None:
        return
    if flags["data.apply_chat_template"]:
        raise Refusal(
            f"--data.input_template {template!r}: is not used with --data.apply_chat_template; leave it out, "
            "or use --data.apply_chat_template=false"
        )
    try:
        fits = "{}" in template and template.format("prompt")
    except (KeyError, IndexError, ValueError, AttributeError, TypeError):
        fits = False
    if not fits:
        raise Refusal(f"--data.input_template {template!r}: must contain {{}} for the prompt; double all other braces")


def _check_mixture(flags: dict[str, Any], count: int) -> None:
    """Check the sets' probabilities: one each, positive, with sum 1, as the datasets library requires."""
    text = flags["data.prompt_probs"]
    if text is None:
        return
    try:
        probabilities = [float(part) for part in text.split(",")]
    except ValueError:
        raise Refusal(f"--data.prompt_probs {text}: must be numbers, one per data set") from None
    if len(probabilities) != count:
        raise Refusal(f"--data.prompt_probs {text}: {len(probabilities)} numbers for {count} data sets; give one each")
    if not all(0 < probability <= 1 for probability in probabilities) or abs(sum(probabilities) - 1) > 1e-6:
        raise Refusal(f"--data.prompt_probs {text}: must be above 0 and sum to 1, such as 0.7,0.3")


def _check_room(flags: dict[str, Any], sets: list[PromptSet]) -> None:
    """Refuse the run if all of the first prompts are too long, because each would lose its beginning."""
    room = room_for_prompts(flags["data.max_len"], flags["rollout.max_new_tokens"])
    prompts = [row[flags["data.input_key"]] for part in sets for row in part.rows[:FIRST_ROWS]]
    texts = [prompt for prompt in prompts if isinstance(prompt, str)]
    file = Path(flags["actor.model_name_or_path"], "tokenizer.json")
    # A token has at least one character, so most runs need no tokenizer here.
    if not texts or min(map(len, texts)) <= room or not file.is_file():
        return
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(file))
    if all(len(tokenizer.encode(text, add_special_tokens=False).ids) > room for text in texts):
        raise Refusal(
            f"--data.max_len {flags['data.max_len']}: all of the first {len(texts)} prompts are longer than the "
            f"{room} tokens that --rollout.max_new_tokens leaves for them; raise it"
        )
