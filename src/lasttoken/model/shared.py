"""One model in memory for several runs: each has layers of its own over the same weights, so adapters stand side by side."""

from __future__ import annotations

import copy
from collections.abc import Hashable
from dataclasses import replace
from typing import Any, cast

from torch import Tensor

from lasttoken.model.backbone import Backbone
from lasttoken.model.load import Source, load


class Shared:
    """Loads models; a second one of the same source and options is made over the weights of the first."""

    def __init__(self) -> None:
        self.first: dict[Hashable, Backbone] = {}  # as loaded: adapters are put into copies of it

    def load(self, source: Source, **options: Any) -> Backbone:
        """As `load.load`."""
        key = source, tuple(sorted(options.items(), key=lambda option: option[0]))
        if key not in self.first:
            self.first[key] = load(source, **options)
        return twin(self.first[key])


def twin(backbone: Backbone) -> Backbone:
    """The backbone with layers of its own over the same weights and buffers."""
    tensors: list[Tensor] = [*backbone.whole.parameters(), *backbone.whole.buffers()]
    kept: dict[int, Any] = {id(tensor): tensor for tensor in tensors}
    parts = (backbone.whole, backbone.module, backbone.vocabulary)
    whole, module, vocabulary = copy.deepcopy(parts, kept)
    return replace(backbone, whole=whole, module=module, vocabulary=vocabulary, config=cast("Any", module).config)
