"""vLLM worker extension for weight_sync.py: receives buckets, or single parameters as in OpenRLHF, on a CPU."""

import torch

from rpg_openrlhf.weight_sync.receiver import WeightReceiver


class UpstreamReceiver(WeightReceiver):
    """Receive weights parameter by parameter or in buckets."""

    def update_weight(self, name, dtype, shape, empty_cache=False):
        """Differs from upstream in the device ("cuda" there), and prints nothing."""
        assert dtype == self.model_config.dtype
        weight = torch.empty(shape, dtype=dtype)
        self._model_update_group.broadcast(weight, src=0, stream=torch.cuda.current_stream())
        self.model_runner.model.load_weights(weights=[(name, weight)])
