"""The actors' half of the data path: columns arrive, are padded for a model, and log-probs return without padding.

B: sequences of a micro-batch; T: tokens of its longest; A: T - 1.
"""

import numpy as np
import torch
from openrlhf.trainer.ppo_utils.experience import Experience
from openrlhf.trainer.ppo_utils.replay_buffer import NaiveReplayBuffer

from rpg_openrlhf.sampling.columns import Columns, pad, spans, strip
from rpg_openrlhf.sampling.samples import Sample
from rpg_openrlhf.training.micro_batches import action_spans, fields_of


def padded_inputs(columns: Columns, fill: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids and attention mask (B, T) and action mask (B, A), in int64 like upstream's."""
    ids = pad(columns.ids, columns.lengths, fill, np.int64)
    attended = spans([0] * len(ids), columns.lengths, ids.shape[1])
    return tuple(
        torch.from_numpy(array.astype(np.int64, copy=False)) for array in (ids, attended, action_spans(columns))
    )


class ColumnForward:
    """Differs from upstream's actors of a policy and a reference in also accepting a micro-batch as columns."""

    def forward(self, sequences, action_mask=None, attention_mask=None, *, fill=None, **kwargs):
        """Differs from upstream: columns are padded here, and their log-probs come back without the padding."""
        if not isinstance(sequences, Columns):
            return super().forward(sequences, action_mask, attention_mask, **kwargs)
        ids, attention_mask, action_mask = padded_inputs(sequences, fill)
        log_probs = super().forward(ids, action_mask, attention_mask, **kwargs)
        return strip(log_probs.float().numpy(), sequences.action_lengths)


class ColumnBuffer(NaiveReplayBuffer):
    """Differs from upstream's in holding columns, not an object of a dozen tensors per sample."""

    def append(self, experience):
        """Differs from upstream: columns are stored as they are."""
        if isinstance(experience, Columns):
            self.items.extend(experience.rows(Sample))
        else:
            super().append(experience)

    def collate_fn(self, batch):
        """Differs from upstream: a batch of columns is padded in one step."""
        rows = batch[0] if self.dynamic_batch else batch
        return batch_of(rows) if isinstance(rows[0], Sample) else super().collate_fn(batch)


def batch_of(rows: list[Sample]) -> Experience:
    """The batch of upstream's make_experience_batch, but with tensors in `info`, where upstream has lists of them."""
    columns = Columns.of(rows)
    ids, attention_mask, action_mask = padded_inputs(columns, 0)
    return Experience(sequences=ids, attention_mask=attention_mask, action_mask=action_mask, **fields_of(columns))
