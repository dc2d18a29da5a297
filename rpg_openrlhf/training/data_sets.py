"""The trainer's data: the files that the launcher checked, read by the same code, and mixed as in upstream."""

from typing import Any

from datasets import Dataset, concatenate_datasets, interleave_datasets

from rpg_openrlhf.problems.prompt_sets import columns_of, read_sets


def blending_datasets(
    datasets: str,
    probabilities: str | None = None,
    strategy: Any = None,
    seed: int = 42,
    max_count: int = 100_000_000,
    stopping_strategy: str = "all_exhausted",
    dataset_split: str = "train",
) -> Dataset:
    """Replacement of openrlhf/datasets/utils.py's, whose library guesses types: labels become numbers, dates or None.

    Concatenation and interleaving are upstream's calls, so the order of prompts is upstream's.
    """
    args = strategy.args
    columns = columns_of(args.data, needs_label=False)  # the launcher has checked the labels
    parts = [
        Dataset.from_list(part.rows[:max_count])
        for part in read_sets("data.prompt_dataset", datasets, dataset_split, columns, args.trust_remote_code)
    ]
    if probabilities is None:
        return concatenate_datasets(parts)
    shares = [float(share) for share in probabilities.split(",")]
    return interleave_datasets(parts, probabilities=shares, seed=seed, stopping_strategy=stopping_strategy)
