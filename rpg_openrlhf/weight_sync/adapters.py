"""LoRA in a weight sync: a policy's weights under the engines' names, and W + s·B·A for weights with an adapter."""

from __future__ import annotations

from pathlib import Path
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
        """W + s·B·A in the weight's dtype, computed in float32 and rounded once."""
        return (weight.float() + self.scale * (self.up.data.float() @ self.down.data.float())).to(weight.dtype)


def engine_weights(module: torch.nn.Module) -> tuple[dict[str, torch.nn.Parameter], dict[str, Adapter]]:
    """Weights of the base model by name, and the adapters by the name of their weight."""
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
    """A parameter's name in the base model, without the parts that PEFT adds."""
    return name.removeprefix(PREFIX).replace(f"{BASE}.", ".")


def quantization(weight: torch.Tensor) -> object | None:
    """bitsandbytes's state of a 4-bit weight (`shape` and `dtype` are those of the unpacked weight), else None."""
    return getattr(weight, "quant_state", None)


def unpacked(weight: torch.nn.Parameter) -> torch.Tensor:
    """The values that a forward pass computes with; a 4-bit weight is dequantized."""
    state = quantization(weight)
    if state is None:
        return weight.data
    # Imported late: only 4-bit weights need it.
    from bitsandbytes.functional import dequantize_4bit

    return dequantize_4bit(weight.data, state)


def keep_packing(module: torch.nn.Module) -> None:
    """Make 4-bit layers keep their original packing.

    On a CPU with AVX512-BF16, bitsandbytes 0.50.2 packs them again in the first forward pass without gradients
    (nn/modules.py). That rounds their scales to bf16, and gradients no longer pass through.
    """
    for layer in module.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False


def write_merged(adapter: Path, folder: Path, trust_remote_code: bool) -> None:
    """Merge the PEFT `adapter` folder into its base model, and write the model into `folder`.

    Plain LoRA is merged as in a sync, any other adapter by PEFT. The adapter names its base model, a folder or hub id.
    The base is loaded in the dtype of the adapter folder's config.json, which training used, or else in its own. The
    tokenizer is the adapter folder's. Raise OSError if the base cannot be loaded or the adapter cannot be merged.
    """
    # Imported late: transformers takes seconds.
    from peft import PeftConfig
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    trained = (adapter / "config.json").is_file() and AutoConfig.from_pretrained(
        adapter, trust_remote_code=trust_remote_code
    ).dtype
    name = PeftConfig.from_pretrained(adapter).base_model_name_or_path
    try:
        base = AutoModelForCausalLM.from_pretrained(name, dtype=trained or "auto", trust_remote_code=trust_remote_code)
    except OSError as error:
        raise OSError(f"its base model {name} cannot be loaded: {str(error).strip().splitlines()[0]}") from error
    model = PeftModel.from_pretrained(base, adapter)
    if _is_plain(model):
        weights, adapters = engine_weights(model)
        for weight_name, matrices in adapters.items():
            weights[weight_name].data = matrices.merged(weights[weight_name].data)
        merged = model.unload()
    else:
        merged = _merged_by_peft(model)
    merged.save_pretrained(folder)
    AutoTokenizer.from_pretrained(adapter, trust_remote_code=trust_remote_code).save_pretrained(folder)


def _is_plain(model: PeftModel) -> bool:
    """True if an adapter only adds s·B·A to linear layers."""
    config = model.peft_config[ADAPTER]
    beside = ("use_dora", "lora_bias", "trainable_token_indices", "alora_invocation_tokens", "modules_to_save")
    return (
        config.peft_type == "LORA"
        and config.bias == "none"
        and not any(getattr(config, name, None) for name in beside)
        and not any(isinstance(layer, LoraLayer) and layer.lora_embedding_A for layer in model.modules())
    )


def _merged_by_peft(model: PeftModel) -> torch.nn.Module:
    config = model.peft_config[ADAPTER]
    for name in ("lora_bias", "alora_invocation_tokens"):  # PEFT drops the first; the second acts on some tokens only
        if getattr(config, name, None):
            raise OSError(f"an adapter with {name} cannot be merged into its base model")
    merge = getattr(model.base_model, "merge_and_unload", None)
    if merge is None:
        raise OSError(f"PEFT cannot merge a {config.peft_type.value} adapter into its base model")
    return merge()
