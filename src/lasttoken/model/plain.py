"""A loaded model as transformers itself would load it: its own classes, dense weights, the adapter merged.

What is left behind is this package's attention, LoRA and products; 4-bit weights are de-quantised.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers import Conv1D, PreTrainedModel

from lasttoken.errors import ModelError
from lasttoken.model.lora_group import dense_weight, quant_state
from lasttoken.model.quiet import quiet

BASE = ".base_layer"  # between the names of a layer with LoRA and of its weights, once for each merge


def plain_model(model: nn.Module, *, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A copy of a loaded transformers model on the CPU, with the weights that it predicts with, in eval mode.

    Raises ModelError where its adapter cannot be merged.
    """
    given: Any = model
    config = copy.deepcopy(given.config)
    if getattr(config, "quantization_config", None) is not None:
        del config.quantization_config
    config.dtype = dtype
    kind = next(kind for kind in type(given).__mro__ if kind.__module__.startswith("transformers"))
    with quiet(), torch.device("cpu"):
        plain = built(kind, config, dtype)
    weights = plain_weights(model, plain, dtype)
    missing, left = plain.load_state_dict(weights, strict=False)
    tied = set(getattr(plain, "all_tied_weights_keys", None) or ())
    if left or set(missing) - tied:
        names = ", ".join(sorted({*left, *(set(missing) - tied)})[:3])
        raise ModelError(f"{config.model_type}: its weights cannot be told apart from its adapter's ({names})")
    plain.tie_weights()
    return plain.eval().requires_grad_(False)


def built(kind: Any, config: Any, dtype: torch.dtype) -> Any:
    """A model of that class with attention that every runtime knows; weights are not drawn."""
    capped = bool(getattr(config, "attn_logit_softcapping", None))  # which sdpa leaves out in older transformers
    for attention in ("eager",) if capped else ("sdpa", "eager"):
        try:
            return kind._from_config(copy.deepcopy(config), attn_implementation=attention, dtype=dtype)
        except ValueError:  # a model without sdpa
            continue
    raise ModelError(f"{config.model_type}: transformers builds it with neither sdpa nor eager attention")


@torch.no_grad()
def plain_weights(model: nn.Module, plain: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    """The weights of `model` by the names that they have in `plain`."""
    found = dict[str, Tensor]()
    for name, module in model.named_modules():
        if isinstance(module, BaseTunerLayer):
            weight, bias = merged_weight(module, name)
            turned = isinstance(plain.get_submodule(name.replace(BASE, "")), Conv1D)
            found[f"{name}.weight"] = weight.t().contiguous() if turned else weight
            if bias is not None:
                found[f"{name}.bias"] = bias
        elif not any(part.startswith("lora_") or part == "base_layer" for part in name.split(".")):
            own = dict(module.named_parameters(recurse=False)) | dict(module.named_buffers(recurse=False))
            kept = {key for key in own if key not in module._non_persistent_buffers_set}
            for key in kept:
                packed = key == "weight" and quant_state(module) is not None
                found[f"{name}.{key}".lstrip(".")] = dense_weight(module, torch.float32) if packed else own[key]
    cast = {name: value.to("cpu", dtype if value.is_floating_point() else value.dtype) for name, value in found.items()}
    return {name: value.clone() for name, value in cast.items()}


def merged_weight(layer: Any, name: str) -> tuple[Tensor, Tensor | None]:
    """(weight (out, in) float32, bias) of a LoRA layer with its adapter merged, be it merged already or not."""
    base = layer.base_layer
    bias = getattr(base, "bias", None)
    if layer.merged:
        return dense_weight(base, torch.float32), bias
    if layer.lora_variant:
        raise ModelError(f"{name}: a DoRA adapter cannot be merged here; train with lora.dora = false to export")
    (adapter,) = layer.active_adapters
    low = layer.lora_B[adapter].weight.float() @ layer.lora_A[adapter].weight.float() * layer.scaling[adapter]
    return dense_weight(base, torch.float32) + low, bias
