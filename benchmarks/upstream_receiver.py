"""A vLLM worker's extension for weight_sync.py: OpenRLHF's loop over the parameters beside buckets, on a CPU."""

import torch

from rpg_openrlhf.weight_sync.receiver import WeightReceiver


class UpstreamReceiver(WeightReceiver):
    """Weights come parameter by parameter or by the bucket."""

    def update_weight(self, name, dtype, shape, empty_cache=False):
        """Differs from upstream in the device, "cuda" there, and in printing nothing."""
        assert dtype == self.model_config.dtype
        weight = torch.empty(shape, dtype=dtype)
        self._model_update_group.broadcast(weight, src=0, stream=torch.cuda.current_stream())
        self.model_runner.model.load_weights(weights=[(name, weight)])
