"""LoRA adapters through PEFT: added to a loaded backbone, saved and loaded.

PEFT's config and tensors are kept under names of our own: under PEFT's, transformers would load an adapter as a whole
classifier, with a head drawn at random. `lasttoken export --to peft` writes what PEFT may load.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from lasttoken.errors import ArtifactError, ModelError
from lasttoken.model import products
from lasttoken.model.backbone import Backbone, value_of
from lasttoken.model.layer_taps import blocks_of
from lasttoken.model.lora import speed_up
from lasttoken.model.upper_blocks import check_cut
from lasttoken.model.verify import close
from lasttoken.record.folder import read_json, write_json

CONFIG, WEIGHTS = "lora.json", "lora.safetensors"  # in the folder of an adapter
OLDER = "adapter_config.json"  # PEFT's own name, in runs of before
EXPERT_COUNTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")  # in configs
EXPERTS = {"gate", "gate_proj", "up_proj", "down_proj", "w1", "w2", "w3"}  # names of layers of experts, and of routers


def adapt(
    backbone: Backbone,
    *,
    r: int,
    alpha: float,
    dropout: float,
    targets: str | Sequence[str] = "all-linear",
    rslora: bool = False,
    dora: bool = False,
    from_block: int = 0,
    seed: int,
) -> PeftModel:
    """Add LoRA, in place, to the linear layers of the backbone's blocks. As B is zero, outputs do not change at first.

    from_block: lowest block that gets an adapter. seed: set before the weights of A are drawn. The vocabulary head and
    any classification head get none. Raises ModelError if a target matches no layer, ConfigError if `from_block` is
    above the last block.
    """
    every = targets == "all-linear"
    named = beside_experts(backbone) if every else []
    unused = [*not_plain(backbone), *fused(backbone)] if every else []
    config = LoraConfig(
        r=r,
        lora_alpha=cast("int", alpha),  # a float works too, despite the annotation
        lora_dropout=dropout,
        target_modules=named or (targets if isinstance(targets, str) else list(targets)),
        exclude_modules=[*outside_trunk(backbone), *below(backbone, from_block), *unused] or None,
        use_rslora=rslora,
        use_dora=dora,
        bias="none",
    )
    refuse_vocabulary_head(backbone, targets)
    torch.manual_seed(seed)
    try:
        with quiet():
            adapted = get_peft_model(backbone.whole, config)
    except ValueError as error:
        raise ModelError(f"lora.targets: {error}".splitlines()[0]) from error
    return prepared(adapted, backbone)


def outside_trunk(backbone: Backbone) -> list[str]:
    """Names of linear layers outside the text model (a vision tower, a projector), which get no adapter."""
    inside = {id(module) for module in backbone.module.modules()}
    head = backbone.whole.get_output_embeddings()
    return [
        name
        for name, module in backbone.whole.named_modules()
        if isinstance(module, nn.Linear) and id(module) not in inside and module is not head
    ]


def beside_experts(backbone: Backbone) -> list[str]:
    """Names of the layers that `all-linear` adapts in a model whose experts are stacked in one parameter; else none.

    Those of attention, that is, and what else has a name of its own: PEFT takes names that experts had before they were
    stacked for the stack, which has no dropout.
    """
    counted = any(value_of(backbone.config, name) for name in EXPERT_COUNTS)
    parts = [part for part in backbone.module.modules() if not isinstance(part, nn.Conv1d)]
    if not counted and not any(p.ndim == 3 for part in parts for p in part.parameters(recurse=False)):
        return []
    _, blocks = blocks_of(backbone.module)
    leaves = {name.rpartition(".")[2] for name, part in blocks.named_modules() if isinstance(part, nn.Linear)}
    return sorted(leaves - EXPERTS)


def not_plain(backbone: Backbone) -> list[str]:
    """Names of linear layers with a forward of another kind (a router that returns two tensors): they get no adapter."""
    from bitsandbytes.nn import Linear4bit

    plain = (nn.Linear, products.Linear, Linear4bit)
    parts = backbone.whole.named_modules()
    others = [(name, part) for name, part in parts if isinstance(part, nn.Linear) and type(part) not in plain]
    return [name for name, part in others if not multiplies(part)]


@torch.no_grad()
def multiplies(layer: nn.Linear) -> bool:
    """Whether a layer of a class of its own gives x W' + bias."""
    states = torch.randn(2, layer.in_features, generator=torch.Generator().manual_seed(0)).to(layer.weight)
    try:
        found: Any = layer(states)
    except (RuntimeError, TypeError, ValueError):
        return False
    return isinstance(found, Tensor) and close(found, nn.functional.linear(states, layer.weight, layer.bias))


def fused(backbone: Backbone) -> list[str]:
    """Names of the linear layers that Mamba's kernels take the weights of without calling them: left out of `all-linear`.

    An adapter there would have no effect on a GPU with these kernels; PEFT refuses some of them.
    """
    mixers = [
        name
        for name, module in backbone.whole.named_modules()
        if {"A_log", "D"} <= dict(module.named_parameters(recurse=False)).keys()
    ]
    return [f"{name}.out_proj" for name in mixers]


def below(backbone: Backbone, block: int) -> list[str]:
    """Names of all modules in the blocks below `block`. Raises ConfigError if no block is left above."""
    if block:
        check_cut(backbone, block)
    _, blocks = blocks_of(backbone.module)
    inside = {id(module) for lower in blocks[:block] for module in lower.modules()}
    return [name for name, module in backbone.whole.named_modules() if id(module) in inside]


def refuse_vocabulary_head(backbone: Backbone, targets: str | Sequence[str]) -> None:
    """Raises ModelError if a target is the vocabulary head: label scores would ignore its adapter."""
    head = backbone.whole.get_output_embeddings()
    names = [name for name, module in backbone.whole.named_modules() if head is not None and module is head]
    matches = [] if isinstance(targets, str) else [t for t in targets if any(f".{n}".endswith(f".{t}") for n in names)]
    if matches:
        raise ModelError(f"lora.targets: {matches[0]!r} is the vocabulary head, which is not trained; leave it out")


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress two warnings of PEFT that users cannot act on.

    PEFT 0.21 uses a name that transformers 5.23 deprecates (can go with the next PEFT), and it reports that it has set
    fan_in_fan_out for GPT-2's transposed layers, which is correct.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to False", category=UserWarning)
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
        yield


def prepared(adapted: PeftModel, backbone: Backbone) -> PeftModel:
    """`adapted`, with faster LoRA layers of the same output (model/lora.py).

    Autocast handles the float32 weights: PEFT's own casting would copy every input to float32 and back.
    """
    for module in adapted.modules():
        if isinstance(module, BaseTunerLayer):
            module.cast_input_dtype_enabled = cast("Any", False)
    speed_up(adapted)
    return adapted


def save_adapter(adapted: PeftModel, folder: Path) -> None:
    """lora.json and lora.safetensors: PEFT's config, and its tensors by their names."""
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="Could not find a config file"
        )  # a model that was not loaded from a folder
        adapted.save_pretrained(str(folder), save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty model-card template
    settings = read_json(folder / OLDER)
    if isinstance(targets := settings.get("target_modules"), list):
        settings["target_modules"] = sorted(targets)  # a set in PEFT, whose order differs from run to run
    write_json(folder / CONFIG, settings)
    (folder / OLDER).unlink()
    (folder / "adapter_model.safetensors").rename(folder / WEIGHTS)


def load_adapter(backbone: Backbone, folder: Path) -> PeftModel:
    """Load a saved adapter into the backbone, in place. Raises ArtifactError if it does not fit."""
    try:
        with quiet():
            if (folder / OLDER).is_file():
                return prepared(PeftModel.from_pretrained(backbone.whole, str(folder), is_trainable=False), backbone)
            config = LoraConfig(**read_json(folder / CONFIG))
            adapted = PeftModel(backbone.whole, config)
            told = set_peft_model_state_dict(adapted, load_file(folder / WEIGHTS))
            lost = [*told.unexpected_keys, *(key for key in told.missing_keys if "lora_" in key)]
            if lost:
                raise KeyError(f"{lost[0]} is in one of model and file alone")
            adapted.requires_grad_(False)
            return prepared(adapted.eval(), backbone)
    except (OSError, ValueError, TypeError, RuntimeError, KeyError, SafetensorError) as error:
        raise ArtifactError(
            f"{folder}: the adapter does not load into {backbone.name!r} ({error})".splitlines()[0]
        ) from error


def trainable_parameters(module: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def total_parameters(module: nn.Module) -> int:
    """Number of parameters; a byte of packed 4-bit weights counts as two."""
    return sum((p.numel() * 2 if p.dtype == torch.uint8 else p.numel()) for p in module.parameters())


def parameter_bytes(module: nn.Module) -> int:
    """Size of the weights in memory, in bytes."""
    return sum(p.numel() * p.element_size() for p in module.parameters())
