"""LoRA in a weight sync: a policy's weights under the engines' names, and W + s·B·A for those with an adapter."""

from __future__ import annotations

from typing import NamedTuple

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer

PREFIX, BASE, ADAPTER = "base_model.model.", ".base_layer", "default"


class Adapter(NamedTuple):
    """A (r, in) and B (out, r) beside a weight (out, in); `scale` is alpha / r."""

    down: torch.nn.Parameter
    up: torch.nn.Parameter
    scale: float

    def merged(self, weight: torch.Tensor) -> torch.Tensor:
        """W + s·B·A in the weight's type, added up in float32: what a forward pass of both is, rounded once."""
        return (weight.float() + self.scale * (self.up.data.float() @ self.down.data.float())).to(weight.dtype)


def engine_weights(module: torch.nn.Module) -> tuple[dict[str, torch.nn.Parameter], dict[str, Adapter]]:
    """Weights without adapters, by their names in the base model, and the adapters by their weight's name."""
    if not isinstance(module, PeftModel):
        return dict(module.named_parameters()), {}
    weights = {engine_name(name): weight for name, weight in module.named_parameters() if ".lora_" not in name}
    adapters: dict[str, Adapter] = {}
    for name, layer in module.named_modules():
        if isinstance(layer, LoraLayer) and ADAPTER in layer.lora_A:
            down, up = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
            adapters[engine_name(f"{name}.weight")] = Adapter(down, up, layer.scaling[ADAPTER])
    return weights, adapters


def engine_name(name: str) -> str:
    """A parameter's name without what PEFT put around it."""
    return name.removeprefix(PREFIX).replace(f"{BASE}.", ".")
