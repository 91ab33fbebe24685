"""LoRA through PEFT: put into a loaded backbone, saved and loaded in PEFT's own format."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from lasttoken.errors import ArtifactError, ModelError
from lasttoken.model.backbone import Backbone
from lasttoken.model.blocks import blocks_of, is_shortened, shorten
from lasttoken.model.depth import check_cut
from lasttoken.model.lora import speed_up


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
    """Add LoRA, in place, to the linear layers of the backbone's blocks; at first it changes nothing, B being zero.

    from_block: blocks below it get none.

    The seed is set here, before the weights of A are drawn: drawn earlier they would not repeat. The vocabulary
    head and any classification head stay untouched. Raises ModelError where a target names no layer, ConfigError where
    no block is left above `from_block`.
    """
    config = LoraConfig(
        r=r,
        lora_alpha=cast("int", alpha),  # a float serves as well; its annotation says int
        lora_dropout=dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        exclude_modules=[*outside_trunk(backbone), *below(backbone, from_block)] or None,
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
    """Names of the linear layers that take no part in reading text (a vision tower, a projector): nothing to adapt."""
    inside = {id(module) for module in backbone.module.modules()}
    head = backbone.whole.get_output_embeddings()
    return [
        name
        for name, module in backbone.whole.named_modules()
        if isinstance(module, nn.Linear) and id(module) not in inside and module is not head
    ]


def below(backbone: Backbone, block: int) -> list[str]:
    """Names of everything inside the blocks before `block`, 0 for none. Raises ConfigError where no block is left."""
    if block:
        check_cut(backbone, block)
    _, blocks = blocks_of(backbone.module)
    inside = {id(module) for lower in blocks[:block] for module in lower.modules()}
    return [name for name, module in backbone.whole.named_modules() if id(module) in inside]


def refuse_vocabulary_head(backbone: Backbone, targets: str | Sequence[str]) -> None:
    """Raises ModelError where a target names the vocabulary head, whose adapter label scores would never use."""
    head = backbone.whole.get_output_embeddings()
    names = [name for name, module in backbone.whole.named_modules() if head is not None and module is head]
    named = [] if isinstance(targets, str) else [t for t in targets if any(f".{n}".endswith(f".{t}") for n in names)]
    if named:
        raise ModelError(f"lora.targets: {named[0]!r} is the vocabulary head, which is not trained; leave it out")


@contextmanager
def quiet() -> Iterator[None]:
    """Without two remarks that are no user's business.

    PEFT 0.21 sets off a deprecation in transformers 5.23 by an old name (can go with the next PEFT), and tells that it
    has set fan_in_fan_out for GPT-2's transposed layers, as it should.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to False", category=UserWarning)
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
        yield


def prepared(adapted: PeftModel, backbone: Backbone) -> PeftModel:
    """`adapted`, made faster without changing what it computes (model/lora.py).

    Its float32 weights are left to autocast: PEFT's own casting would copy every input to float32 and back.
    """
    for module in adapted.modules():
        if isinstance(module, BaseTunerLayer):
            module.cast_input_dtype_enabled = cast("Any", False)
    speed_up(adapted)
    if is_shortened(blocks_of(backbone.module)[1][-1]):
        shorten(backbone.module)
    return adapted


def save_adapter(adapted: PeftModel, folder: Path) -> None:
    """adapter_config.json and adapter_model.safetensors; PeftModel.from_pretrained reads them without this package."""
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="Could not find a config file"
        )  # a model that has no folder of its own
        adapted.save_pretrained(str(folder), save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # a form to fill in, which nobody here does


def load_adapter(backbone: Backbone, folder: Path) -> PeftModel:
    """Put a saved adapter into the backbone, in place. Raises ArtifactError where it does not fit."""
    try:
        with quiet():
            return prepared(PeftModel.from_pretrained(backbone.whole, str(folder), is_trainable=False), backbone)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise ArtifactError(
            f"{folder}: the adapter does not load into {backbone.name!r} ({error})".splitlines()[0]
        ) from error


def trainable_parameters(module: nn.Module) -> int:
    """How many numbers an optimiser would change."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def total_parameters(module: nn.Module) -> int:
    """How many numbers the model has; a 4-bit weight counts once for each number it stands for."""
    return sum((p.numel() * 2 if p.dtype == torch.uint8 else p.numel()) for p in module.parameters())


def parameter_bytes(module: nn.Module) -> int:
    """Bytes of memory that the weights take."""
    return sum(p.numel() * p.element_size() for p in module.parameters())
