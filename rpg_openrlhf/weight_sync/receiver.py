"""An engine's end of a weight sync, in each of its workers."""

import os
import pickle

import torch

from rpg_openrlhf import cpu_platform

if os.environ.get("RPG_PLATFORM") == "cpu":  # vLLM starts its workers itself: Ray's set-up hook never runs there
    cpu_platform.install()

from openrlhf.trainer.ray.vllm_worker_wrap import WorkerWrap

from rpg_openrlhf.weight_sync.plan import checksum


class WeightReceiver(WorkerWrap):
    """Differs from upstream's WorkerWrap in receiving weights by the bucket, possibly over upstream's group."""

    _version = 0  # of the sync of the last loaded bucket
    _checksums: dict[int, int] = {}  # noqa: RUF012  (by bucket; replaced, never changed in place)
    _names: set[str] | None = set()  # noqa: RUF012  (names of loaded weights in the engine; None: not known)

    def open_weights(self, spec: bytes) -> None:
        """Unpack WeightSender's `spec`, pickled because vLLM's own serializer turns dataclasses into dictionaries."""
        self._plan, address, is_whole = pickle.loads(spec)
        self._must_check_names = is_whole  # once, at the first sync
        dtypes = {piece.dtype for bucket in self._plan for piece in bucket.pieces}
        expected = self.model_config.dtype
        assert dtypes == {expected}, f"the policy's weights are {dtypes}, the engine's {expected}"
        self._receive, self._version = address.open(self), 0  # a new policy counts its syncs from 0
        # Only vLLM's reload moves quantized weights to where kernels read them. Other weights do not need it, and on
        # the CPU vLLM 0.29's reload would lose a tied head.
        self._layerwise = self.model_config.quantization is not None

    def load_bucket(self, version: int, index: int, slot: int) -> None:
        """Load bucket `index` from `slot` into the model, in one call."""
        if version != self._version:
            self._version, self._checksums, self._names = version, {}, set()
            if self._layerwise:
                from vllm.model_executor.model_loader.reload import initialize_layerwise_reload

                initialize_layerwise_reload(self.model_runner.model)
        bucket = self._plan[index]
        buffer = self._receive(slot, bucket.nbytes)
        weights = bucket.views(buffer)
        if self._layerwise:  # the reload keeps a layer's weights until it has all
            weights = [weight.clone() for weight in weights]
        named = zip((piece.name for piece in bucket.pieces), weights, strict=True)
        names = self.model_runner.model.load_weights(named)
        self._names = None if names is None or self._names is None else self._names | names
        self._checksums = {**self._checksums, index: checksum(buffer)}
        torch.cuda.synchronize()  # the sender may overwrite the buffer after the return

    def commit_weights(self, version: int, checksums: list[int]) -> None:
        """Finish a sync. Raise RuntimeError unless every bucket of it arrived as it was sent."""
        received = self._checksums if version == self._version else {}
        wrong = [index for index, sent in enumerate(checksums) if received.get(index) != sent]
        if wrong:
            raise RuntimeError(f"weight sync {version}: buckets {wrong} of {len(checksums)} missing or damaged")
        if self._layerwise:
            from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

            finalize_layerwise_reload(self.model_runner.model, self.model_config)
        elif self._must_check_names and self._names is not None:
            self._check_names()
            self._must_check_names = False

    def _check_names(self) -> None:
        """Refuse, at the first sync, an engine that received no value for a weight: the initial value would stay."""
        missing = {name for name, _ in self.model_runner.model.named_parameters()} - self._names
        if missing:
            raise RuntimeError(f"the policy sent no weight for {min(missing)} of the engine ({len(missing)} such)")
