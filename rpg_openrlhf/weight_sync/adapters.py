"""LoRA in a weight sync: a policy's weights under the engines' names, and W + s·B·A for those with an adapter."""

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


def quantization(weight: torch.Tensor) -> object | None:
    """State of a weight that bitsandbytes holds in 4 bits (`shape` and `dtype` are those it stands for), else None."""
    return getattr(weight, "quant_state", None)


def unpacked(weight: torch.nn.Parameter) -> torch.Tensor:
    """The numbers that a weight's forward pass computes with: a 4-bit one's codes are looked up."""
    state = quantization(weight)
    if state is None:
        return weight.data
    # Imported late: only 4-bit weights need it.
    from bitsandbytes.functional import dequantize_4bit

    return dequantize_4bit(weight.data, state)


def keep_packing(module: torch.nn.Module) -> None:
    """Have 4-bit layers keep the packing that they were made with.

    On a CPU with AVX512-BF16, bitsandbytes 0.50.2 packs them again in the first forward pass without gradients
    (nn/modules.py): their scales are rounded to bf16 then, and gradients no longer pass through.
    """
    for layer in module.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False


def write_merged(adapter: Path, folder: Path, trust_remote_code: bool) -> None:
    """Write the model that a PEFT `adapter` folder makes of its base model into `folder`.

    Plain LoRA is merged as in a sync, another kind of adapter by PEFT. The base is the folder or hub id that the
    adapter names. It is loaded in the type of the adapter folder's config.json, which says what was trained with, or
    in its own; the tokenizer is the adapter folder's. OSError where the base cannot be loaded, or the adapter not be
    merged.
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
    """True where W + s·B·A of linear layers is all that an adapter does."""
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
    for name in ("lora_bias", "alora_invocation_tokens"):  # the first is dropped by PEFT, the second is of some tokens
        if getattr(config, name, None):
            raise OSError(f"an adapter with {name} cannot be merged into its base model")
    merge = getattr(model.base_model, "merge_and_unload", None)
    if merge is None:
        raise OSError(f"PEFT cannot merge a {config.peft_type.value} adapter into its base model")
    return merge()
