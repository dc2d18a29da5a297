"""The vLLM actor, with the engine arguments upstream gives no flag for."""

import copy

from openrlhf.trainer.ray.vllm_engine import RolloutRayActor


class RPGRolloutActor(RolloutRayActor.__ray_actor_class__):
    """Differs from upstream's RolloutRayActor in `engine_overrides`, which win over the arguments upstream hard-codes."""

    engine_overrides: dict = {}  # noqa: RUF012  (set once, by install.py, on a subclass)

    async def __init__(self, *args, **kwargs):
        await super().__init__(*args, **{**kwargs, **self.engine_overrides})

    async def generate_responses(self, *, sampling_params, **kwargs):
        """Differs from upstream: log-probs of the sampled tokens are asked for whenever the engine was built to give them.

        Upstream's SamplesGenerator asks only for its mismatch correction; `--rpg.old_policy rollout` needs them too.
        """
        if self.kwargs.get("logprobs_mode") and sampling_params.logprobs is None:
            sampling_params = copy.copy(sampling_params)
            sampling_params.logprobs = 1
        return await super().generate_responses(sampling_params=sampling_params, **kwargs)
