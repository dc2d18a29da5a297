"""Requests to an engine without parts that nobody reads: the cost of a token in vLLM's front end is Python.

For upstream's single-turn executor, which reads token ids, the finish reason and the sampled tokens' log-probs; an
agent of the user's may read anything, and is given what upstream gives.
"""

import copy
import functools
from typing import Any

from vllm import RequestOutput, SamplingParams
from vllm.sampling_params import RequestOutputKind

PLAIN = {"text", "add_special_tokens", "return_tensors"}  # arguments of a tokenization that can be kept


def lean(params: SamplingParams) -> SamplingParams:
    """One output at the end instead of one a step, no text, and of log-probs only those of what was sampled."""
    params = copy.copy(params)
    params.output_kind = RequestOutputKind.FINAL_ONLY
    params.detokenize = False
    if params.logprobs is not None:
        params.logprobs, params.flat_logprobs = 0, True
    return params


class SampledLogProb:
    """A position of a response, as the executor reads it: {token: its log-prob}, of which there is one."""

    __slots__ = ("logprob",)

    def __init__(self, logprob: float):
        self.logprob = logprob

    def get(self, token_id: int) -> "SampledLogProb":
        """The sampled token's, which is the one asked for."""
        return self


def readable(output: RequestOutput) -> RequestOutput:
    """The answer to a lean request, whose flat log-probs would be unpacked into a dictionary of objects a token."""
    for completion in output.outputs:
        if completion.logprobs is not None:
            assert len(completion.logprobs.logprobs) == len(completion.token_ids), "not one log-prob a token"
            completion.logprobs = [SampledLogProb(value) for value in completion.logprobs.logprobs]
    return output


class OncePerPrompt:
    """A tokenizer that remembers: the executor asks it the same prompt for every sample."""

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer
        self._plain = functools.lru_cache(1024)(tokenizer.__call__)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the tokenizer, or remember."""
        if not args and kwargs.keys() <= PLAIN and isinstance(kwargs.get("text"), str):
            return self._plain(**kwargs)
        return self._tokenizer(*args, **kwargs)
