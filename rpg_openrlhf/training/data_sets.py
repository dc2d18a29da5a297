"""The trainer's data: what the launcher has checked, read by the same reader, mixed as upstream mixes it."""

from types import SimpleNamespace
from typing import Any

from datasets import Dataset, concatenate_datasets, interleave_datasets

from rpg_openrlhf.problems.prompt_sets import Columns, read_sets


def blending_datasets(
    datasets: str,
    probabilities: str | None = None,
    strategy: Any = None,
    seed: int = 42,
    max_count: int = 100_000_000,
    stopping_strategy: str = "all_exhausted",
    dataset_split: str = "train",
) -> Dataset:
    """Replacement of openrlhf/datasets/utils.py's, whose library guesses types: labels as numbers, dates and None.

    Concatenation and interleaving are the same calls, so that an order of prompts stays what it was.
    """
    args = strategy.args
    parts = [
        Dataset.from_list(part.rows[:max_count])
        for part in read_sets("data.prompt_dataset", datasets, dataset_split, columns_of(args), args.trust_remote_code)
    ]
    if probabilities is None:
        return concatenate_datasets(parts)
    shares = [float(share) for share in probabilities.split(",")]
    return interleave_datasets(parts, probabilities=shares, seed=seed, stopping_strategy=stopping_strategy)


def columns_of(args: SimpleNamespace) -> Columns:
    """The columns of a row that training reads; the launcher has checked the labels."""
    data = args.data
    return Columns(data.input_key, data.label_key, data.image_key, data.apply_chat_template, needs_label=False)
