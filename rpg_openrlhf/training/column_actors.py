"""The actors' half of the data path: columns in, padded where a model computes, log-probs out as columns.

B: sequences of a micro-batch; T: tokens of its longest; A: T - 1.
"""

import numpy as np
import torch
from openrlhf.trainer.ppo_utils.experience import Experience
from openrlhf.trainer.ppo_utils.replay_buffer import NaiveReplayBuffer

from rpg_openrlhf.sampling.columns import Columns, Row, pad, spans, strip
from rpg_openrlhf.sampling.samples import response_length
from rpg_openrlhf.training.micro_batches import EPISODE, INFO, action_spans


def padded_inputs(columns: Columns, fill: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids and attention mask (B, T), action mask (B, A), of int64 as upstream's."""
    ids = pad(columns.ids, columns.lengths, fill, np.int64)
    attended = spans([0] * len(ids), columns.lengths, ids.shape[1])
    return tuple(
        torch.from_numpy(array.astype(np.int64, copy=False)) for array in (ids, attended, action_spans(columns))
    )


class ColumnForward:
    """Differs from upstream's actors of a policy and a reference in taking a micro-batch as columns too."""

    def forward(self, sequences, action_mask=None, attention_mask=None, *, fill=None, **kwargs):
        """Differs from upstream: columns are padded here, and their log-probs come back without the padding."""
        if not isinstance(sequences, Columns):
            return super().forward(sequences, action_mask, attention_mask, **kwargs)
        ids, attention_mask, action_mask = padded_inputs(sequences, fill)
        log_probs = super().forward(ids, action_mask, attention_mask, **kwargs)
        return strip(log_probs.float().numpy(), sequences.action_lengths)


class Held(Row):
    """A sequence in the buffer, with what upstream's plan of dynamic batches reads of it."""

    __slots__ = ()

    @property
    def total_length(self) -> np.ndarray:
        """Tokens of prompt and response."""
        return np.asarray(self.columns.lengths[self.place])

    @property
    def action_mask(self) -> np.ndarray:
        """Mask as long as the response."""
        return np.ones(response_length(self.value("begin"), self.value("end")), np.int64)


class ColumnBuffer(NaiveReplayBuffer):
    """Differs from upstream's in holding columns, not an object of a dozen tensors a sample."""

    def append(self, experience):
        """Differs from upstream: columns are taken as they are."""
        if isinstance(experience, Columns):
            self.items.extend(experience.rows(Held))
        else:
            super().append(experience)

    def collate_fn(self, batch):
        """Differs from upstream: the padded batch is written once."""
        rows = batch[0] if self.dynamic_batch else batch
        return batch_of(rows) if isinstance(rows[0], Held) else super().collate_fn(batch)


def batch_of(rows: list[Row]) -> Experience:
    """The batch of upstream's make_experience_batch, except `info`, which upstream turns into tensors there."""
    columns = Columns.of(rows)
    ids, attention_mask, action_mask = padded_inputs(columns, 0)
    return Experience(
        sequences=ids,
        attention_mask=attention_mask,
        action_mask=action_mask,
        **{name: torch.from_numpy(pad(flat, columns.action_lengths)) for name, flat in columns.actions.items()},
        **{name: torch.tensor(columns.values[name], dtype=dtype) for name, dtype in EPISODE.items()},
        info={
            name.removeprefix(INFO): torch.tensor(column, dtype=torch.float32)
            for name, column in columns.values.items()
            if name.startswith(INFO)
        },
    )
