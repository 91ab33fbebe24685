"""A model without its numbers: built from config.json alone, every shape and type as training has them, no memory taken.

The modules are the real ones (transformers', PEFT's, bitsandbytes', this package's); only their tensors are stand-ins,
which torch carries through every operation without computing anything.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any

import torch
from bitsandbytes.functional import QuantState
from bitsandbytes.nn import Linear4bit
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from transformers import AutoModel, AutoModelForCausalLM, PretrainedConfig
from transformers.integrations.bitsandbytes import replace_with_bnb_linear
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES
from transformers.quantizers.base import get_keys_to_not_convert

from lasttoken.config import Embedding, Encoder, Instruction, Probe
from lasttoken.errors import ModelError
from lasttoken.methods.probe import check_layer
from lasttoken.model.adapter import adapt
from lasttoken.model.attention import NAME
from lasttoken.model.backbone import (
    Backbone,
    VocabularyHead,
    first_line,
    keep_blocks,
    keep_packing_off,
    longest_text,
    nf4_config,
    refuse_unknown,
    text_model,
)
from lasttoken.model.blocks import shorten
from lasttoken.model.pooling import Head
from lasttoken.plan.meter import Meter

Method = Embedding | Instruction | Encoder | Probe
CPU = torch.device("cpu")  # where the stand-ins seem to be: that needs no driver
BLOCK, SECOND = 64, 256  # numbers that share a scale in NF4, and scales that share one of their own


@dataclass(frozen=True, eq=False)
class Skeleton:
    """A method's modules as training begins with them, and the contexts that their stand-ins live in."""

    config: Method
    backbone: Backbone
    head: nn.Module | None  # None: instruction has none, a probe fits its own outside torch
    mode: FakeTensorMode
    meter: Meter
    parameters: int  # a 4-bit weight is one
    trainable: tuple[int, ...]  # numbers in each tensor that trains
    loaded: int  # bytes of all tensors, those that train included

    @property
    def trained(self) -> int:
        """Bytes of what trains; it is float32."""
        return 4 * sum(self.trainable)

    @property
    def modules(self) -> list[nn.Module]:
        """What trains, all or in part."""
        return [self.backbone.whole, *([] if self.head is None else [self.head])]


def build(config: Method, model: PretrainedConfig, tokenizer: Any, *, classes: int, dtype: torch.dtype) -> Skeleton:
    """The skeleton of a method on a model's config. dtype: what the device computes in. Raises ModelError.

    An architecture that only the weights' own check can tell apart (model/backbone.py) passes here.
    """
    refuse_unknown(config.model, model)
    refuse_other_family(config, model)
    compute = dtype
    if isinstance(config, Encoder):
        compute = dtype if config.precision == "auto" else getattr(torch, config.precision)
        dtype = torch.float32
    vocabulary = isinstance(config, Instruction)
    with torch.device("meta"):
        whole = bare(config, model, dtype, vocabulary=vocabulary)
        trunk = whole.get_decoder() if vocabulary else text_model(whole)
        causal = not isinstance(config, Encoder) and not (isinstance(config, Probe) and config.bidirectional)
        backbone = Backbone(config.model, whole, trunk, tokenizer, trunk.config, None, CPU, compute, causal)
        shorten(trunk)
        if isinstance(config, Embedding | Instruction) and config.lora.r:
            block = config.trunk if isinstance(config, Embedding) else 0
            adapt(backbone, **config.lora.model_dump(), from_block=block, seed=0)
    if isinstance(config, Probe):
        check_layer(config, backbone)
    if isinstance(config, Encoder):
        whole.requires_grad_(True)
    numbers = sum(p.numel() for p in whole.parameters())
    mode, meter, head = FakeTensorMode(), Meter(), None
    with mode, meter:
        materialise(whole, dtype)
        if vocabulary:
            backbone = replace(backbone, vocabulary=VocabularyHead(whole))
        elif not isinstance(config, Probe):
            kind = config.head if isinstance(config, Embedding) else "linear"
            head = Head(backbone.width, classes, pooling=config.pooling, kind=kind)
            numbers += sum(p.numel() for p in head.parameters())
    modules: list[nn.Module] = [whole, *([] if head is None else [head])]
    trainable = tuple(p.numel() for module in modules for p in module.parameters() if p.requires_grad)
    return Skeleton(config, backbone, head, mode, meter, numbers, trainable, meter.now)


def bare(config: Method, model: PretrainedConfig, dtype: torch.dtype, *, vocabulary: bool) -> Any:
    """The frozen transformers model on torch's meta device, its linear layers in NF4 where that is asked for."""
    model = copy.deepcopy(model)
    settle_positions(model)
    if isinstance(config, Probe) and config.layer != "auto":
        keep_blocks(model.get_text_config(), config.layer + 1)
    auto = AutoModelForCausalLM if vocabulary else AutoModel
    try:
        whole: Any = auto.from_config(
            model, dtype=dtype, attn_implementation="eager", trust_remote_code=config.trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise ModelError(f"model {config.model!r} cannot be built from its config ({first_line(error)})") from error
    if not isinstance(config, Encoder) and config.quantize == "nf4":
        settings = nf4_config(config.model, CPU, dtype)
        whole = replace_with_bnb_linear(whole, get_keys_to_not_convert(whole), settings)
        whole.is_loaded_in_4bit = True
        keep_packing_off(whole)
    whole.requires_grad_(False)
    whole.eval()
    whole.set_attn_implementation(NAME)
    return whole


def refuse_other_family(config: Method, model: PretrainedConfig) -> None:
    """Raises ModelError where the config names an architecture that the method does not take."""
    names = " ".join(getattr(model, "architectures", None) or [])
    if isinstance(config, Encoder) and "ForCausalLM" in names:
        raise ModelError(f"model {config.model!r} is a causal language model, not an encoder; use --method embedding")
    both_ways = model.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(model, "is_decoder", False)
    if isinstance(config, Embedding | Instruction) and ("ForMaskedLM" in names or both_ways):
        raise ModelError(f"model {config.model!r} is an encoder (its tokens see both ways); use --method encoder")


def settle_positions(model: PretrainedConfig) -> None:
    """Have rotary positions that depend on the longest text (longrope, dynamic) be plain ones: they take the same memory.

    The longest text there may be stays what it was.
    """

    def settle(values: Any) -> None:
        if not isinstance(values, dict):
            return
        if values.get("rope_type") in ("longrope", "dynamic"):
            values["rope_type"] = "default"
        for inner in values.values():
            settle(inner)

    text = model.get_text_config()
    text.max_position_embeddings = longest_text(text)
    settle(getattr(text, "rope_parameters", None))


def materialise(module: nn.Module, dtype: torch.dtype) -> None:
    """Put stand-ins of the same shape and type in the place of every meta tensor; one that is shared stays shared."""
    made: dict[int, tuple[Tensor, Tensor]] = {}  # the meta tensor is kept, so that its id stays its own
    for inner in module.modules():
        store: dict[str, Any]
        for store in (inner._parameters, inner._buffers):  # type: ignore[assignment]
            for name, old in store.items():
                if old is not None and id(old) not in made:
                    packed = isinstance(inner, Linear4bit) and name == "weight"
                    made[id(old)] = old, nf4(old.shape, dtype) if packed else stand_in(old)
                store[name] = None if old is None else made[id(old)][1]


def stand_in(old: Tensor) -> Tensor:
    """A tensor of the shape and type of `old`."""
    new = torch.empty(old.shape, dtype=old.dtype)
    return nn.Parameter(new, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else new


def nf4(shape: torch.Size, dtype: torch.dtype) -> nn.Parameter:
    """A weight in 4 bits with doubly quantised scales, as bitsandbytes lays it out (Dettmers 2023, arXiv:2305.14314)."""
    scales = -(-shape.numel() // BLOCK)
    second = QuantState(
        absmax=torch.empty(-(-scales // SECOND), dtype=torch.float32),
        code=torch.empty(256),
        blocksize=SECOND,
        dtype=torch.float32,
    )
    weight = nn.Parameter(torch.empty(-(-shape.numel() // 2), 1, dtype=torch.uint8), requires_grad=False)
    state = QuantState(
        absmax=torch.empty(scales, dtype=torch.uint8),
        shape=shape,
        dtype=dtype,
        blocksize=BLOCK,
        code=torch.empty(16),
        quant_type="nf4",
        offset=torch.empty(()),
        state2=second,
    )
    weight.quant_state = state  # type: ignore[attr-defined]
    return weight
