"""The driver's half of the data path: micro-batches are sent as columns and padded only for computation.

Upstream pads a micro-batch on the driver, and sends the padded ids and two int64 masks to every model. It then sends
all of it, with the results, to the policy, which splits it into samples, strips the padding and pads again.
B: sequences of a micro-batch; T: tokens of its longest; A: T - 1.
"""

import itertools

import numpy as np
import torch
from openrlhf.trainer.ppo_utils import experience as upstream
from openrlhf.trainer.ppo_utils.experience import Experience
from openrlhf.trainer.ppo_utils.experience_maker import RemoteExperienceMaker

from rpg_openrlhf.sampling.columns import Columns, pad, spans, strip
from rpg_openrlhf.sampling.samples import EPISODE, INFO, Sample, experiences_of, fit_together

# Fields of an Experience, with one number per action, that a training step may read.
ACTIONS = ("action_log_probs", "base_action_log_probs", "rollout_log_probs", "advantages")


def fields_of(columns: Columns) -> dict:
    """Fields of an Experience from columns: padded action columns, numbers per sequence, and logged numbers."""
    logged = {name: column for name, column in columns.values.items() if name.startswith(INFO)}
    return {
        **{name: torch.from_numpy(pad(flat, columns.action_lengths)) for name, flat in columns.actions.items()},
        **{name: torch.tensor(columns.values[name], dtype=dtype) for name, dtype in EPISODE.items()},
        "info": {
            name.removeprefix(INFO): torch.tensor(column, dtype=torch.float32) for name, column in logged.items()
        },
    }


class MicroBatch(Experience):
    """Differs from upstream's Experience in narrower dtypes and in being sent as columns."""

    columns: Columns  # its source: ids, and where actions begin and end

    @classmethod
    def of(cls, samples: list[Sample], fill: int) -> "MicroBatch":
        """Build a micro-batch of a rollout's samples, with ids padded with `fill`."""
        columns = Columns.of(samples)
        batch = cls(
            sequences=torch.from_numpy(pad(columns.ids, columns.lengths, fill)),
            action_mask=torch.from_numpy(action_spans(columns)),
            prompts=columns.values["prompt"],
            labels=columns.values["label"],
            **fields_of(columns),
        )
        batch.columns = columns
        return batch

    def inputs(self) -> Columns:
        """Columns that a model's forward pass needs."""
        places = {name: self.columns.values[name] for name in ("begin", "end")}
        return Columns(self.columns.lengths, self.columns.ids, {}, places)

    def packed(self) -> Columns:
        """Columns that a training step needs: no prompts and labels, and no returns, which only a critic reads."""
        lengths, places = self.columns.action_lengths, self.inputs().values
        tensors = {name: getattr(self, name) for name in ACTIONS if getattr(self, name) is not None}
        values = places | {name: getattr(self, name).tolist() for name in EPISODE}
        values |= {f"{INFO}{name}": logged.tolist() for name, logged in self.info.items()}
        actions = {name: strip(padded.numpy(), lengths) for name, padded in tensors.items()}
        return Columns(self.columns.lengths, self.columns.ids, actions, values)

    def __reduce__(self):
        return self.packed().__reduce__()


def action_spans(columns: Columns) -> np.ndarray:
    """(B, A), bool: true where a token of the response is predicted."""
    begins, ends = (np.asarray(columns.values[name]) - 1 for name in ("begin", "end"))
    return spans(begins, ends, max(columns.lengths) - 1)


class ColumnMaker(RemoteExperienceMaker):
    """Differs from upstream in the format of micro-batches, not in their content."""

    _inputs: list[Columns] | None = None  # of the micro-batches that make_experience received

    def split_rollout_samples(self, rollout_samples):
        """Differs from upstream: upstream plans the micro-batches with empty samples, and each is then built once."""
        if self.critic_model_group is not None or not fit_together(rollout_samples):
            return super().split_rollout_samples(experiences_of(rollout_samples))
        stand_ins = [Experience() for _ in rollout_samples]
        if self.args.train.dynamic_batch_enable:
            lengths = [float(sample.columns.lengths[sample.place]) for sample in rollout_samples]
            for stand_in, length in zip(stand_ins, torch.tensor(lengths).split(1), strict=True):
                stand_in.total_length = length
        batches = []
        for planned in super().split_rollout_samples(stand_ins):
            batch = MicroBatch.of([rollout_samples[place] for place in planned.index], self.tokenizer.pad_token_id)
            batch.index = planned.index
            batches.append(batch)
        return batches

    def make_experience(self, samples_list):
        """Differs from upstream: keeps the columns that the models will receive."""
        are_columns = all(isinstance(batch, MicroBatch) for batch in samples_list)
        self._inputs = [batch.inputs() for batch in samples_list] if are_columns else None
        return super().make_experience(samples_list)

    def _dispatch_forward(self, group, sync_condition, **kwargs):
        """Differs from upstream: sends columns, which column_actors.ColumnForward accepts."""
        if self._inputs is not None:
            kwargs = {"sequences": self._inputs, "fill": [self.tokenizer.pad_token_id] * len(self._inputs)}
        return super()._dispatch_forward(group, sync_condition, **kwargs)

    def _flatten_results(self, refs, duplicate_factor):
        """Differs from upstream: log-probs that come as columns are padded."""
        results = super()._flatten_results(refs, duplicate_factor)
        if self._inputs is None:
            return results
        return [
            torch.from_numpy(pad(result, columns.action_lengths)) if isinstance(result, np.ndarray) else result
            for result, columns in zip(results, self._inputs, strict=True)
        ]

    def get_cumulative_returns(self, rewards, action_mask, gamma):
        """Differs from upstream: no loop over tokens without discounting, which also keeps a single reward exact."""
        if gamma != 1 or (self.kl_ctl.value > 0 and not self.args.algo.kl.use_loss):
            return super().get_cumulative_returns(rewards, action_mask, gamma)
        if action_mask is not None:
            rewards = action_mask * rewards
        return rewards.flip(-1).cumsum(-1).flip(-1)


def balance_experiences(experiences, args):
    """Distribute the samples to ranks as columns; upstream's function decides from row numbers and lengths."""
    if not all(isinstance(batch, MicroBatch) for batch in experiences):
        return upstream.balance_experiences(experiences, args)
    rows = list(itertools.chain.from_iterable(batch.packed().rows() for batch in experiences))
    lengths = [row.columns.lengths[row.place] for row in rows]
    numbered = Experience(sequences=list(range(len(rows))), total_length=lengths)
    return [Columns.of([rows[i] for i in dealt.sequences]) for dealt in upstream.balance_experiences([numbered], args)]
