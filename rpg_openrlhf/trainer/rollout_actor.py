"""The vLLM actor, with the engine arguments upstream gives no flag for."""

import copy
import zlib
from collections import Counter

from rpg_openrlhf.trainer.weight_sync.engine import SyncedEngine


class RPGRolloutActor(SyncedEngine):
    """Differs from upstream's RolloutRayActor, besides, in `engine_overrides`: they win over what it hard-codes."""

    engine_overrides: dict = {}  # noqa: RUF012  (set once, by install.py, on a subclass)

    async def __init__(self, *args, **kwargs):
        self._draws = Counter() if kwargs["full_determinism"] else None
        await super().__init__(*args, **{**kwargs, **self.engine_overrides})

    async def generate(self, prompt_token_ids, sampling_params, multi_modal_data=None):
        """Differs from upstream: under --train.full_determinism_enable a seed is of what is sampled, not when.

        One generator for all requests hands out its numbers in order of arrival, which differs between two runs.
        """
        if self._draws is not None:
            prompt = zlib.crc32(str(prompt_token_ids).encode())
            self._draws[prompt] += 1
            sampling_params = copy.copy(sampling_params)
            sampling_params.seed = zlib.crc32(f"{self.kwargs['seed']} {prompt} {self._draws[prompt]}".encode())
        return await super().generate(prompt_token_ids, sampling_params, multi_modal_data)

    async def generate_responses(self, *, sampling_params, **kwargs):
        """Differs from upstream: asks for the sampled tokens' log-probs whenever the engine was built to give them.

        Upstream's SamplesGenerator asks only for its mismatch correction; `--rpg.old_policy rollout` needs them too.
        """
        if self.kwargs.get("logprobs_mode") and sampling_params.logprobs is None:
            sampling_params = copy.copy(sampling_params)
            sampling_params.logprobs = 1
        return await super().generate_responses(sampling_params=sampling_params, **kwargs)
