"""The engine's Ray actor: passes weights to its workers, and refuses to generate with an incomplete set."""

from openrlhf.trainer.ray.vllm_engine import RolloutRayActor


class SyncedEngine(RolloutRayActor.__ray_actor_class__):
    """Differs from upstream's RolloutRayActor in receiving weights by the bucket, and in refusing incomplete weights.

    A sync is open from its first bucket to its commit. If generation is paused meanwhile (partial rollouts), requests
    that arrive during a sync are answered after it. Running replies also continue after it: vLLM has dropped their
    keys and values, and computes them again with the new weights (`pause_generation`, mode keep, with clear_cache).
    """

    _open_sync: int | None = None
    _is_paused = False
    _commits = 0  # weight versions so far

    async def open_weights(self, spec: bytes) -> None:
        """Prepare the workers, once, before the first sync."""
        await self.llm.collective_rpc("open_weights", args=(spec,))

    async def load_bucket(self, version: int, index: int, slot: int) -> None:
        """Load bucket `index` of sync `version` from `slot` into every worker."""
        self._open_sync = version
        await self.llm.collective_rpc("load_bucket", args=(version, index, slot))

    async def commit_weights(self, version: int, checksums: list[int]) -> None:
        """Put the weights into use after the last bucket, and drop the cache of the old weights."""
        await self.llm.collective_rpc("commit_weights", args=(version, checksums))
        # A pause has emptied the cache, and nothing was computed since.
        is_reset = not self.kwargs.get("enable_prefix_caching") or await self.llm.reset_prefix_cache()
        if not (is_reset or self._is_paused):
            raise RuntimeError(f"weight sync {version}: the prefix cache is in use and still of the old weights")
        self._open_sync = None
        self._commits += 1

    async def generate(self, prompt_token_ids, sampling_params, multi_modal_data=None):
        """Differs from upstream: refuses to use the weights of an interrupted sync."""
        if not self._is_paused:
            self._refuse_half_loaded()
        return await super().generate(prompt_token_ids, sampling_params, multi_modal_data)

    async def pause_generation(self):
        """Differs from upstream: remembers the pause."""
        await super().pause_generation()
        self._is_paused = True

    async def resume_generation(self):
        """Differs from upstream: refuses to use the weights of an interrupted sync."""
        self._refuse_half_loaded()
        await super().resume_generation()
        self._is_paused = False

    def _refuse_half_loaded(self) -> None:
        if self._open_sync is not None:
            raise RuntimeError(
                f"weight sync {self._open_sync} was interrupted: this engine holds a mixture of old and new weights "
                "and generates nothing until a sync ends"
            )
