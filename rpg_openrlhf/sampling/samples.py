"""Answers of an engine's actor as columns, and a sample of them as upstream's driver reads an Experience of one.

Upstream sends lists of Python numbers and makes a dozen tensors of each. What does not fit the columns (several turns,
images, a missing reward, logs that are no numbers) stays the dictionaries that upstream sends.
"""

from collections.abc import Iterator

import numpy as np
import torch
from openrlhf.trainer.ppo_utils.experience import Experience
from openrlhf.trainer.ppo_utils.samples_generator import SamplesGenerator

from rpg_openrlhf.sampling.columns import Columns, Row


class Answers(Columns):
    """The samples of one prompt."""

    __slots__ = ()

    def __reduce__(self):
        return Answers, super().__reduce__()[1]

    def __iter__(self) -> Iterator["Sample"]:
        return self.rows(Sample)


def pack(responses: list[dict], max_length: int) -> Answers | list[dict]:
    """The samples of one prompt, each cut to `max_length` tokens; as they came where they do not fit."""
    with_log_probs = {response["rollout_log_probs"] is not None for response in responses}
    if not all(map(_fits, responses)) or len(with_log_probs) > 1:
        return responses
    lengths = [min(len(response["observation_tokens"]), max_length) for response in responses]
    sized = list(zip(responses, lengths, strict=True))
    ids = np.concatenate([np.fromiter(r["observation_tokens"], np.int32, n) for r, n in sized])
    actions = {}
    if with_log_probs == {True}:
        known = [np.fromiter(r["rollout_log_probs"], np.float32, n)[1:] for r, n in sized]
        actions["rollout_log_probs"] = np.concatenate(known)
    values = {name: [response[name] for response in responses] for name in ("prompt", "label", "truncated")}
    values |= {name: [_number(response[name]) for response in responses] for name in ("reward", "scores")}
    values["extra_logs"] = [{k: _number(v) for k, v in r["extra_logs"].items()} for r in responses]
    values["begin"] = [response["action_ranges"][0][0] for response in responses]
    values["end"] = [min(r["action_ranges"][0][1], n) for r, n in sized]
    values["versions"] = [response.get("versions", (0, 0)) for response in responses]
    values["clipped"] = [length >= max_length for length in lengths]
    return Answers(lengths, ids, actions, values)


def _number(value) -> float:
    return float(value.flatten()[0]) if isinstance(value, torch.Tensor) else float(value)


def _fits(response: dict) -> bool:
    numbers = [response["reward"], response["scores"], *response["extra_logs"].values()]
    return (
        all(isinstance(number, int | float | torch.Tensor) for number in numbers)
        and len(response["action_ranges"]) == 1
        and response["mm_train_inputs"] is None
        and not response["images"]
    )


class Sample(Row):
    """An answer, with what upstream's generator and evaluation read of an Experience of one sequence."""

    __slots__ = ()

    @property
    def prompts(self) -> list[str]:
        """Its one prompt."""
        return [self.value("prompt")]

    @property
    def labels(self) -> list[str]:
        """Its one label."""
        return [self.value("label")]

    @property
    def info(self) -> dict[str, torch.Tensor]:
        """Logs of the reward function about this sample."""
        return {name: torch.tensor([number]) for name, number in self.value("extra_logs").items()}

    @property
    def sequences(self) -> torch.Tensor:
        """(1, L)."""
        return torch.from_numpy(self.columns.ids_of(self.place).astype(np.int64))[None]

    @property
    def rewards(self) -> torch.Tensor:
        """(1,), and so are those below."""
        return torch.tensor([self.value("reward")])

    @property
    def scores(self) -> torch.Tensor:
        """Scores by which groups are filtered."""
        return torch.tensor([self.value("scores")])

    @property
    def truncated(self) -> torch.Tensor:
        """True if the engine cut it off."""
        return torch.tensor([self.value("truncated")])

    @property
    def versions(self) -> tuple[int, int]:
        """Weight versions that the engine held when the sample was asked for and when it was done."""
        return self.value("versions")

    @property
    def total_length(self) -> torch.Tensor:
        """Tokens of prompt and response."""
        return torch.tensor([float(self.columns.lengths[self.place])])

    @property
    def response_length(self) -> torch.Tensor:
        """Tokens of the response."""
        return torch.tensor([response_length(self.value("begin"), self.value("end"))])

    def experience(self) -> Experience:
        """The Experience that upstream would have made of the answer."""
        names = ("prompt", "label", "truncated", "reward", "scores", "extra_logs")
        response = {name: self.value(name) for name in names}
        response["observation_tokens"] = self.columns.ids_of(self.place)
        response["action_ranges"] = [(self.value("begin"), self.value("end"))]
        response["rollout_log_probs"] = None
        if "rollout_log_probs" in self.columns.actions:
            known = self.columns.actions_of("rollout_log_probs", self.place)
            response["rollout_log_probs"] = np.pad(known, (1, 0))
        # It is cut already: a limit of its own length calls it clipped, any longer one does not.
        limit = self.columns.lengths[self.place] + (not self.value("clipped"))
        return SamplesGenerator._process_response_into_experience(None, response, max_len=limit)


def response_length(begin: int, end: int) -> int:
    """Action tokens of a response; the first token of a sequence is none."""
    return max(0, end - max(begin, 1))


def fit_together(samples: list) -> bool:
    """True if all are columns, of the same names."""
    if not all(isinstance(sample, Sample) for sample in samples):
        return False
    return len({(*sample.columns.actions, 0, *sorted(sample.value("extra_logs"))) for sample in samples}) == 1


def experiences_of(samples: list) -> list[Experience]:
    """Experiences, for what goes upstream's way."""
    return [sample.experience() if isinstance(sample, Sample) else sample for sample in samples]
