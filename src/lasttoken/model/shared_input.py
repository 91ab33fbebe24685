"""LoRA layers that read the same input in training are computed together, when the first of them is called.

q, k and v of attention, gate and up of an MLP: one dropout and one product with A instead of three (bench/speed). The
module that holds them drops what none of them fetched, after an error too, so that no graph outlives a forward pass.
"""

from __future__ import annotations

from functools import cache
from typing import Any, cast

from torch import Tensor, nn

from lasttoken.model.lora_group import adapters_group, outputs_of

SIBLINGS = (
    ("q_proj", "k_proj", "v_proj"),
    ("gate_proj", "up_proj"),
    ("query", "key", "value"),
    ("q_lin", "k_lin", "v_lin"),
    ("w1", "w3"),
    ("wi_0", "wi_1"),
)  # names of such layers in transformers' models


class Siblings:
    """Layers of one module that may read the same input; whether they do shows in the first forward pass."""

    def __init__(self, layers: tuple[nn.Module, ...]):
        self.layers = layers
        self.apart = False  # they read different inputs
        self.source: Tensor | None = None
        self.outputs: dict[nn.Module, Tensor] = {}  # computed, and not yet fetched

    def output(self, layer: nn.Module, x: Tensor, flat: Tensor) -> Tensor | None:
        """The output (T, out) of a layer for its input x, (T, in) as `flat`; None where it has to be computed alone."""
        if self.outputs and x is not self.source:
            self.apart = True
            self.forget()
        if self.apart:
            return None
        if not self.outputs:
            group = adapters_group(self.layers, flat.dtype)
            if group is None or layer is not self.layers[0]:
                self.apart = True
                return None
            self.source = x
            self.outputs = dict(zip(self.layers, outputs_of(group, flat), strict=True))
        found = self.outputs.pop(layer, None)
        self.apart = found is None  # it reads one input twice
        if self.apart or not self.outputs:
            self.forget()
        return found

    def forget(self) -> None:
        """Drop what was not fetched."""
        self.source, self.outputs = None, {}


class Holder:
    """Mixin for the module that holds siblings."""

    siblings: tuple[Siblings, ...]

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            found = super().forward(*args, **kwargs)  # type: ignore[misc]
            for some in self.siblings:  # not after an error, nor where a recomputation stops early
                some.apart = some.apart or bool(some.outputs)
            return found
        finally:
            for some in self.siblings:
                some.forget()


def install(adapted: nn.Module, kind: type) -> None:
    """Let the sibling layers of class `kind` share their inputs, in place."""
    holders: list[Any] = list(adapted.modules())
    for module in holders:
        sets: list[tuple[Any, ...]] = [tuple(getattr(module, name, None) for name in names) for names in SIBLINGS]
        found = tuple(Siblings(layers) for layers in sets if all(isinstance(layer, kind) for layer in layers))
        if not found or isinstance(module, Holder):
            continue
        for some in found:
            for layer in cast("Any", some.layers):
                layer.siblings = some
        module.siblings = found
        module.__class__ = holding(type(module))


@cache
def holding(kind: type) -> type:
    """The class `kind` with `Holder` mixed in, created once."""
    return type(kind.__name__, (Holder, kind), {})
