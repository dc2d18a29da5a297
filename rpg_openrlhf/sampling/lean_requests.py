"""Engine requests without outputs that are never read: vLLM's front end spends Python time on every token.

They serve upstream's single-turn executor, which reads token ids, the finish reason and the sampled tokens' log-probs.
A user's agent may read anything, so its requests stay as upstream makes them.
"""

import copy
import functools
from typing import Any

from vllm import RequestOutput, SamplingParams
from vllm.sampling_params import RequestOutputKind

PLAIN = {"text", "add_special_tokens", "return_tensors"}  # arguments of a call whose result can be cached


def lean(params: SamplingParams) -> SamplingParams:
    """Reduce the output: once at the end instead of at every step, no text, and log-probs of sampled tokens only."""
    params = copy.copy(params)
    params.output_kind = RequestOutputKind.FINAL_ONLY
    params.detokenize = False
    if params.logprobs is not None:
        params.logprobs, params.flat_logprobs = 0, True
    return params


class SampledLogProb:
    """One position of a response in the executor's format {token: log-prob}, with a single entry."""

    __slots__ = ("logprob",)

    def __init__(self, logprob: float):
        self.logprob = logprob

    def get(self, token_id: int) -> "SampledLogProb":
        """Return the entry of the sampled token; the executor asks for no other."""
        return self


def readable(output: RequestOutput) -> RequestOutput:
    """Convert the answer to a lean request; the executor would unpack its flat log-probs to a dictionary per token."""
    for completion in output.outputs:
        if completion.logprobs is not None:
            assert len(completion.logprobs.logprobs) == len(completion.token_ids), "not one log-prob per token"
            completion.logprobs = [SampledLogProb(value) for value in completion.logprobs.logprobs]
    return output


class OncePerPrompt:
    """Tokenizer with a cache: the executor tokenizes the same prompt for every sample."""

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer
        self._plain = functools.lru_cache(1024)(tokenizer.__call__)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Tokenize, from the cache if possible."""
        if not args and kwargs.keys() <= PLAIN and isinstance(kwargs.get("text"), str):
            return self._plain(**kwargs)
        return self._tokenizer(*args, **kwargs)
