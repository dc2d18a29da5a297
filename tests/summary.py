"""Means, extremes and effective sample size of one batch's statistics: the reference for what a run adds up."""

import torch
from torch import Tensor


def summarize_stats(stats: dict[str, Tensor], action_mask: Tensor | None = None) -> dict[str, Tensor]:
    """One batch's means over valid tokens, extremes of w and effective sample size (Σw)² / (n Σw²), 0-d each.

    stats: of `rpg_token_losses`; action_mask: (B, A). The effective sample size is a share: 1 when all weights are
    equal, 1/n when one token of n carries the batch. At level sequence a sequence counts once per token. Without any
    valid token everything is 0.
    """
    weight = stats["importance_weight"]
    mask = torch.ones_like(weight, dtype=torch.bool) if action_mask is None else action_mask.bool()
    count = mask.sum().clamp(min=1)
    # Masked entries are 0 in every statistic, so plain sums and the maximum are those of the valid tokens.
    summary = {name: values.sum() / count for name, values in stats.items()}
    mean, mean_square = summary.pop("importance_weight"), weight.square().sum() / count
    largest = weight.max()
    return {
        "importance_weight_mean": mean,
        "importance_weight_max": largest,
        "importance_weight_min": torch.where(mask, weight, largest).min(),
        "effective_sample_size": mean.square() / mean_square.clamp(min=torch.finfo(weight.dtype).tiny),
        **summary,
    }
