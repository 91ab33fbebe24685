"""A loaded language model, and its forward passes on packed rows of texts."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property, partial
from typing import Any, NoReturn

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from lasttoken.errors import ModelError
from lasttoken.model.device import put
from lasttoken.model.layer_taps import blocks_of, tapping
from lasttoken.model.layout import Layout, OtherLayout, lay_out
from lasttoken.model.padded import in_order, in_rows
from lasttoken.model.shard import is_sharded


@dataclass(frozen=True, eq=False)
class Backbone:
    """A loaded model without its vocabulary head, its tokenizer, and their properties."""

    name: str  # as the user wrote it
    whole: PreTrainedModel  # as loaded by transformers
    module: nn.Module  # the part that returns last_hidden_state (1, T, H)
    tokenizer: PreTrainedTokenizerBase
    config: PretrainedConfig  # of the text model
    vocabulary: nn.Module | None  # hidden (n, H) -> logits (n, V); None unless requested
    device: torch.device
    compute: torch.dtype  # dtype of matrix products; weights may be wider
    causal: bool = True
    padded: str = ""  # why texts run in padded rows (model/padded.py), for the user; empty where they are packed
    offset: int = 0  # added to positions: RoBERTa counts from its padding id + 1
    threads: int = 1  # CPU threads of one row; fixed at loading, because the order of sums depends on it
    told: str = ""  # why it computes in this dtype, for the user; empty where nothing was measured
    process: int = field(default_factory=os.getpid)  # id of the process that loaded it

    @property
    def precision(self) -> str:
        """`float32` or `bfloat16`: what matrix products are computed in, as the setting is written."""
        return "bfloat16" if self.compute == torch.bfloat16 else "float32"

    @property
    def width(self) -> int:
        """H, the size of a hidden state."""
        return int(self.config.hidden_size)

    @property
    def depth(self) -> int:
        """Number of transformer blocks."""
        return len(blocks_of(self.module)[1])

    def __reduce__(self) -> NoReturn:
        raise ModelError(
            "a fitted language model is not pickled; write it with save(folder) and read it with lasttoken.load(folder)"
        )

    def check_process(self) -> None:
        """Raises ModelError in a fork of the process that loaded the model, where torch's threads would hang."""
        if os.getpid() != self.process:
            raise ModelError(
                f"model {self.name!r} was loaded before this process was forked, and torch's threads do not survive a fork; "
                "start processes by spawn (multiprocessing.get_context('spawn')), or load the model in each of them"
            )

    def autocast(self) -> torch.autocast:
        """The autocast context of forward passes: bfloat16 products, while float32 weights stay float32."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.compute == torch.bfloat16)

    @property
    def window(self) -> int:
        """Maximum tokens of a text; 1,024 if the config does not say."""
        return longest_text(self.config) - self.offset

    @property
    def padding(self) -> int:
        """Token id of padding; 0 if the config has none, or -1."""
        return max(0, value_of(self.config, "pad_token_id") or 0)

    @cached_property
    def sharded(self) -> bool:
        """Whether its blocks are split over processes, which must then run equally many forward passes."""
        return is_sharded(self.module)

    @property
    def notes(self) -> list[str]:
        """What the user should know of how the model runs."""
        return [note for note in (self.told, self.padded) if note]

    def hidden(self, inputs: Tensor, layout: Layout | OtherLayout) -> Tensor:
        """Hidden states after the last block, (T, H), of a packed row of tokens (T,) or of input embeddings (T, H)."""
        return self.states(inputs, layout, lambda run: [run()])[0]

    def hidden_at(self, layers: Sequence[int], inputs: Tensor, layout: Layout) -> list[Tensor]:
        """Hidden states (T, H) at each of `layers`: layer k is the input of block k, layer `depth` the final output.

        Blocks above the highest layer requested do not run.
        """

        def read(run: Callable[[], Tensor]) -> list[Tensor]:
            with tapping(layers) as states:
                states[self.depth] = run()
            return [states[layer] for layer in layers]

        return self.states(inputs, layout, read)

    @cached_property
    def layers(self) -> list[int]:
        """The layers whose states are as many and as wide as the final ones, in order; `depth` is the last of them.

        MobileBERT's blocks work at another width; Funnel's on fewer tokens.
        """
        ids, layout = torch.zeros(3, dtype=torch.int64, device=self.device), lay_out([3], device=self.device)
        every = range(self.depth + 1)
        with torch.no_grad(), self.autocast():
            try:
                states = self.hidden_at(every, ids, layout)
            except (IndexError, KeyError):  # a block has no states, or those of fewer tokens
                return [self.depth]
        return [layer for layer, found in zip(every, states, strict=True) if found.shape == (3, self.width)]

    def states(
        self, inputs: Tensor, layout: Layout | OtherLayout, read: Callable[[Callable[[], Tensor]], list[Tensor]]
    ) -> list[Tensor]:
        """What `read` returns of the row's forward pass, (T, H) each; of several passes where rows are padded."""
        self.check_process()
        if self.padded and isinstance(layout, Layout):
            rows = list(in_rows(inputs, layout, filling=self.padding, longest=self.window))
            found = [
                [states.index_select(0, row.own) for states in read(partial(self.forward, row.inputs, mask=row.mask))]
                for row in rows
            ]
            tokens = [row.tokens for row in rows]
            return [in_order(states, tokens) for states in zip(*found, strict=True)]
        sides = (0, 0) * (inputs.ndim - 1)
        whole = F.pad(inputs, (*sides, 0, layout.filler))
        positions = F.pad(layout.positions + self.offset, (0, layout.filler))
        packed = read(partial(self.forward, whole[None], position_ids=positions[None], layout=layout))
        return [states[: len(inputs)] for states in packed]

    def forward(self, inputs: Tensor, *, mask: Tensor | None = None, **more: object) -> Tensor:
        """Hidden states (B * L, H) of rows of tokens (B, L) or input embeddings (B, L, H) under the model's attention."""
        known = keywords_of(type(self.module))
        given = {"attention_mask": mask, "use_cache": False}
        chosen = {name: value for name, value in given.items() if name in known and value is not None}
        rows = {"inputs_embeds" if inputs.is_floating_point() else "input_ids": inputs}
        return self.module(**rows, **chosen, **more).last_hidden_state.flatten(0, 1)


def value_of(config: PretrainedConfig, name: str) -> Any:
    """A value of a config; None where it has none, or another one for every block."""
    try:
        return getattr(config, name, None)
    except RuntimeError:  # transformers' AmbiguousGlobalPerLayerAttributeError
        return None


@cache
def keywords_of(kind: type[nn.Module]) -> frozenset[str]:
    """Names of the parameters of a module's forward."""
    return frozenset(inspect.signature(kind.forward).parameters)


def longest_text(config: PretrainedConfig) -> int:
    """Maximum tokens of a text: max_position_embeddings; with longrope positions, the original length before extension.

    Longrope frequencies change for a whole row once one text is longer (transformers' `longrope_frequency_update`), so
    a short text's output would depend on its neighbours.
    """
    most = int(getattr(config, "max_position_embeddings", None) or 0)
    most = most if most > 0 else 1024  # XLNet says -1
    ropes = getattr(config, "rope_parameters", None) or {}
    for rope in (
        ropes,
        *(inner for inner in ropes.values() if isinstance(inner, dict)),
    ):  # one, or one per kind of layer
        if rope.get("rope_type") == "longrope":
            most = min(most, int(rope.get("original_max_position_embeddings") or most))
    return most


def to_tensor(ids: np.ndarray | Sequence[int], backbone: Backbone) -> Tensor:
    """Ids as int64 on the backbone's device."""
    return put(np.ascontiguousarray(ids, dtype=np.int64), backbone.device)
