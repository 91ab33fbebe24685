"""What a classifier is without this package: a plain model, how hidden states become logits, and how texts are read.

Every export is made of it (export/), and `padded_logits` is its definition in a dozen lines of torch.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lasttoken.config.methods import Embedding, Encoder, Probe
from lasttoken.errors import ConfigError
from lasttoken.infer.reading import token_limit
from lasttoken.model.backbone import Backbone
from lasttoken.model.plain import plain_model
from lasttoken.model.pooling import Pooling
from lasttoken.text.prompt import Prompt
from lasttoken.text.tokenizer import Encoded, Keep, encode, with_suffix


@dataclass(frozen=True)
class Reading:
    """How texts become token ids."""

    limit: int  # tokens of a text, special ones included
    keep: Keep = "head"  # of longer texts
    prefix: str = ""  # in front of every text
    suffix: str = ""  # after every text, beyond the limit

    def __call__(self, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> Encoded:
        """Token ids of the texts."""
        given = [self.prefix + text for text in texts] if self.prefix else texts
        encoded = encode(tokenizer, given, limit=self.limit, keep=self.keep)
        return with_suffix(tokenizer, encoded, self.suffix) if self.suffix else encoded

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Portable:
    """A classifier with a head, as plain torch on the CPU in float32."""

    trunk: PreTrainedModel  # last_hidden_state (B, L, H)
    tokenizer: PreTrainedTokenizerBase
    reading: Reading
    pooling: Pooling
    layers: nn.Module  # pooled (B, H) -> logits (B, C)
    layer: int | None = None  # hidden states are the input of that block; None: the final ones
    query: Tensor | None = None  # (H,), of attention pooling
    precision: str = "float32"  # of the base model's weights: float32 or bfloat16

    def pooled(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Pooled hidden states (B, H) of rows that are padded on the right: ids and mask (B, L) int64."""
        if self.layer is None:
            states = self.trunk(input_ids=ids, attention_mask=mask).last_hidden_state  # (B, L, H)
        else:
            found = self.trunk(input_ids=ids, attention_mask=mask, output_hidden_states=True)
            states = found.hidden_states[self.layer]
        return padded_pool(states.float(), mask, self.pooling, self.query)

    def logits(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Logits (B, C) float32 of padded rows."""
        return self.layers(self.pooled(ids, mask))


@dataclass(frozen=True, eq=False)
class PortableLM:
    """A classifier whose answer is a text: a causal LM with its vocabulary head, and the prompt."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    prompt: Prompt
    limit: int  # tokens of prompt, text and answer together
    precision: str  # of the weights: float32 or bfloat16


def padded_pool(states: Tensor, mask: Tensor, pooling: Pooling, query: Tensor | None = None) -> Tensor:
    """(B, H) of states (B, L, H) float32: as model/pooling.py on packed rows. mask: (B, L), 1 for the text's tokens first."""
    if pooling == "first":
        return states[:, 0]
    if pooling == "last":
        rows = torch.arange(states.shape[0], device=states.device)
        return states[rows, mask.sum(dim=1) - 1]
    inside = mask[..., None].bool()  # (B, L, 1)
    if pooling == "max":
        return states.masked_fill(~inside, float("-inf")).amax(dim=1)
    if query is None:
        weights = mask / mask.sum(dim=1, keepdim=True)  # (B, L)
    else:
        scores = states @ query / states.shape[2] ** 0.5
        weights = scores.masked_fill(mask == 0, float("-inf")).softmax(dim=1)
    return (states.masked_fill(~inside, 0.0) * weights[..., None].to(states.dtype)).sum(dim=1)


def portable(
    backbone: Backbone,
    config: Embedding | Encoder | Probe,
    layers: nn.Module,
    *,
    pooling: Pooling,
    layer: int | None = None,
    prefix: str = "",
    query: Tensor | None = None,
) -> Portable:
    """The Portable of a backbone and the layers on its pooled states. Raises ConfigError on windows."""
    long = config.long
    if long.keep == "windows":
        raise ConfigError(
            ["long.keep = windows: an exported model reads one window of a text; train with long.keep = head to export"]
        )
    own = next(weight.dtype for weight in backbone.module.parameters() if weight.is_floating_point())
    reading = Reading(token_limit(config, backbone), long.keep, prefix, config.suffix)
    return Portable(
        plain_model(backbone.module),
        backbone.tokenizer,
        reading,
        pooling,
        copy.deepcopy(layers).cpu().float().eval().requires_grad_(False),
        layer,
        None if query is None else query.detach().cpu().float(),
        "float32" if own == torch.float32 else "bfloat16",
    )
