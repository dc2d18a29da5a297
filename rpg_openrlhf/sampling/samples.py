"""Responses of an engine's actor as columns, and samples of them that upstream's driver reads like Experiences.

Upstream sends lists of Python numbers and makes a dozen tensors per response. Responses that do not fit into columns
(several turns, images, a missing reward, logs that are no numbers) stay upstream's dictionaries.
"""

import numpy as np
import torch
from openrlhf.trainer.ppo_utils.experience import Experience
from openrlhf.trainer.ppo_utils.samples_generator import SamplesGenerator

from rpg_openrlhf.sampling.columns import Columns, Row

# Fields of an Experience with one number per sequence (upstream's role "episode"). Columns have values of these names.
EPISODE = {
    "rewards": torch.float32,
    "scores": torch.float32,
    "response_length": torch.int64,
    "truncated": torch.bool,
    "total_length": torch.float32,
}
INFO = "info."  # prefix of the logged values in columns


def pack(responses: list[dict], max_length: int) -> "list[Sample] | list[dict]":
    """Pack one prompt's samples, each cut to `max_length` tokens; return them unchanged if they do not fit."""
    names = {(response["rollout_log_probs"] is None, *sorted(response["extra_logs"])) for response in responses}
    if not all(map(_fits, responses)) or len(names) > 1:
        return responses
    lengths = [min(len(response["observation_tokens"]), max_length) for response in responses]
    sized = list(zip(responses, lengths, strict=True))
    ids = np.concatenate([np.fromiter(r["observation_tokens"], np.int32, n) for r, n in sized])
    actions = {}
    if responses[0]["rollout_log_probs"] is not None:
        log_probs = [np.fromiter(r["rollout_log_probs"], np.float32, n)[1:] for r, n in sized]
        actions["rollout_log_probs"] = np.concatenate(log_probs)
    values = {name: [response[name] for response in responses] for name in ("prompt", "label", "truncated")}
    values["begin"] = [response["action_ranges"][0][0] for response in responses]
    values["end"] = [min(r["action_ranges"][0][1], n) for r, n in sized]
    values["versions"] = [response.get("versions", (0, 0)) for response in responses]
    values["rewards"] = [_number(response["reward"]) for response in responses]
    values["scores"] = [_number(response["scores"]) for response in responses]
    values["response_length"] = list(map(_response_length, values["begin"], values["end"]))
    values["total_length"] = lengths
    values[f"{INFO}response_clip_ratio"] = [length >= max_length for length in lengths]
    values |= {f"{INFO}reward": values["rewards"], f"{INFO}score": values["scores"]}
    for name in responses[0]["extra_logs"]:
        values[f"{INFO}{name}"] = [_number(response["extra_logs"][name]) for response in responses]
    return list(Columns(lengths, ids, actions, values).rows(Sample))


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


def _response_length(begin: int, end: int) -> int:
    """Number of action tokens; the first token of a sequence is never an action."""
    return max(0, end - max(begin, 1))


def _episode(name: str) -> property:
    return property(lambda sample: torch.tensor([sample.value(name)], dtype=EPISODE[name]))


class Sample(Row):
    """A response with the fields that upstream's driver, evaluation and buffer read of an Experience.

    Tensors are of shape (1,), except `sequences` (1, L) and `action_mask`, which is as long as the response.
    """

    __slots__ = ()

    rewards = _episode("rewards")
    scores = _episode("scores")
    response_length = _episode("response_length")
    truncated = _episode("truncated")
    total_length = _episode("total_length")
    prompts = property(lambda self: [self.value("prompt")])
    labels = property(lambda self: [self.value("label")])
    versions = property(lambda self: self.value("versions"))  # of the weights, at its first and last token
    action_mask = property(lambda self: torch.ones(self.value("response_length")))
    sequences = property(lambda self: torch.from_numpy(self.columns.ids_of(self.place).astype(np.int64))[None])
    info = property(lambda self: {name: torch.tensor([number]) for name, number in self.logs.items()})

    @property
    def logs(self) -> dict[str, float]:
        """Numbers to log for the sample, including those of the reward function."""
        return {name.removeprefix(INFO): self.value(name) for name in self.columns.values if name.startswith(INFO)}

    def experience(self) -> Experience:
        """Build the Experience that upstream would have built from the response, which is already cut."""
        response = {name: self.value(name) for name in ("prompt", "label", "truncated", "scores")}
        response |= {"reward": self.value("rewards"), "extra_logs": self.logs}
        response["observation_tokens"] = self.columns.ids_of(self.place)
        response["action_ranges"] = [(self.value("begin"), self.value("end"))]
        response["rollout_log_probs"] = None
        if "rollout_log_probs" in self.columns.actions:
            log_probs = self.columns.actions_of("rollout_log_probs", self.place)
            response["rollout_log_probs"] = np.pad(log_probs, (1, 0))
        length = self.columns.lengths[self.place]
        return SamplesGenerator._process_response_into_experience(None, response, max_len=length)


def fit_together(samples: list) -> bool:
    """True if every sample is held in columns, and all have the same names."""
    if not all(isinstance(sample, Sample) for sample in samples):
        return False
    columns = {sample.columns for sample in samples}
    return len({frozenset([*each.actions, *each.values]) for each in columns}) == 1


def experiences_of(samples: list) -> list[Experience]:
    """Convert samples to Experiences for upstream's code."""
    return [sample.experience() if isinstance(sample, Sample) else sample for sample in samples]
