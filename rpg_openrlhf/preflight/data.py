"""Checks of the training set: its rows, their number and the length of its prompts. problems/ reads the rows."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from rpg_openrlhf.errors import Refusal
from rpg_openrlhf.problems.prompt_sets import PromptSet, columns_of, read_sets
from rpg_openrlhf.settings.data_checks import grades_by_default
from rpg_openrlhf.settings.run_settings import Settings

FIRST_ROWS = 100  # rows per data set whose prompts are tokenized


class Training(NamedTuple):
    """Training sets. Without sets and without a count if upstream reads the data itself."""

    sets: list[PromptSet]
    prompts: int | None  # in an episode; a lower bound with --data.prompt_probs, as upstream then repeats small sets


def room_for_prompts(max_len: int, max_new_tokens: int | None) -> int:
    """Number of tokens left for the prompt."""
    return max_len - (max_new_tokens or 1)


def is_upstreams(s: Settings) -> bool:
    """True if upstream reads the data itself: from ModelScope's hub, or with images."""
    return s.use_ms or s.data.max_images_per_prompt > 0


def read(s: Settings) -> Training:
    """Read and check every row of the training sets; no sets if upstream reads them."""
    if is_upstreams(s):
        return Training([], None)
    name, split = s.data.prompt_dataset, s.data.prompt_split
    columns = columns_of(s.data, grades_by_default(s))
    sets = read_sets("data.prompt_dataset", name, split, columns, s.trust_remote_code)
    prompts = min(s.data.max_samples, sum(min(s.data.max_samples, len(part.rows)) for part in sets))
    if prompts < s.rollout.batch_size:
        raise Refusal(
            f"--rollout.batch_size {s.rollout.batch_size}: the data set has only {prompts} prompts, less than "
            "one rollout; lower it"
        )
    _check_room(s, sets)
    return Training(sets, prompts)


def _check_room(s: Settings, sets: list[PromptSet]) -> None:
    """Refuse the run if all of the first prompts are too long, because each would lose its beginning."""
    room = room_for_prompts(s.data.max_len, s.rollout.max_new_tokens)
    prompts = [row[s.data.input_key] for part in sets for row in part.rows[:FIRST_ROWS]]
    texts = [prompt for prompt in prompts if isinstance(prompt, str)]
    file = Path(s.actor.model_name_or_path, "tokenizer.json")
    # A token has at least one character, so most runs need no tokenizer here.
    if not texts or min(map(len, texts)) <= room or not file.is_file():
        return
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(file))
    if all(len(tokenizer.encode(text, add_special_tokens=False).ids) > room for text in texts):
        raise Refusal(
            f"--data.max_len {s.data.max_len}: all of the first {len(texts)} prompts are longer than the "
            f"{room} tokens that --rollout.max_new_tokens leaves for them; raise it"
        )
