"""Integrated gradients of a label's log-odds over the token embeddings.

Sundararajan 2017 (arXiv:1703.01365), by captum. The baseline is the mean embedding of the vocabulary, scaled to the
mean norm of the tokens. A zero baseline fails: blocks normalise their input, so all change would lie at the path's start.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from lasttoken.errors import ConfigError
from lasttoken.infer.differentiable import embedding_of
from lasttoken.methods.classifier import Classifier

VOCABULARY = 16384  # embeddings per chunk
TOKENS = 4096  # per forward pass along the path; affects memory, not the result


@dataclass(frozen=True, eq=False)
class Attribution:
    """The contribution of each token that was read to a label's log-odds."""

    spans: list[tuple[int, int]]  # (T,) character spans in the text; empty for special tokens
    scores: np.ndarray  # (T,) float64
    log_odds: float  # of the label, on the text
    start: float  # of the label, at the baseline

    @property
    def gap(self) -> float:
        """Relative error |sum(scores) - (log_odds - start)| / |log_odds - start|; more steps make it smaller."""
        return abs(float(self.scores.sum()) - (self.log_odds - self.start)) / max(abs(self.log_odds - self.start), 1e-9)


def attribute(model: Classifier, text: str, column: int, *, steps: int) -> Attribution:
    """Attribution of the log-odds of the label in `column`. Raises ConfigError without gradients or captum."""
    try:
        from captum.attr import IntegratedGradients
    except ImportError as error:
        raise ConfigError(
            ["explain by gradients needs captum: pip install 'lasttoken[explain]', or use --by removal"]
        ) from error
    read = model.differentiable(text)
    layer, device = embedding_of(read.backbone), read.backbone.device
    with torch.no_grad():
        given = layer(torch.from_numpy(read.tokens.astype(np.int64)).to(device)).float()[None]  # (1, T, H)
        neutral = neutral_of(layer).expand_as(given)

    def odds(embeddings: Tensor) -> Tensor:
        return log_odds(read.forward(embeddings), column, model.labels.multi)

    with torch.enable_grad():
        found = IntegratedGradients(odds).attribute(
            given, baselines=neutral, n_steps=steps, internal_batch_size=max(1, TOKENS // read.copy_tokens)
        )
    with torch.no_grad():
        ends = odds(torch.cat([given, neutral])).cpu().double().tolist()
    return Attribution(read.spans, found.detach().sum(dim=2)[0].cpu().double().numpy(), *ends)


def neutral_of(layer: nn.Embedding) -> Tensor:
    """The baseline: mean embedding of the vocabulary, scaled to the tokens' mean norm, (H,) float32."""
    total, length, size = torch.zeros(()), 0.0, layer.num_embeddings
    for ids in torch.arange(size, device=layer.weight.device).split(VOCABULARY):
        found = layer(ids).float()  # through the layer, since some layers scale their output
        total, length = total.to(found.device) + found.sum(dim=0), length + float(found.norm(dim=1).sum())
    mean = total / size
    return mean / mean.norm().clamp_min(1e-12) * (length / size)


def log_odds(logits: Tensor, column: int, multi: bool) -> Tensor:
    """Log-odds (B,) of one label from logits (B, C): against its absence (multi), or against all other labels."""
    if multi:
        return logits[:, column]
    rest = torch.cat([logits[:, :column], logits[:, column + 1 :]], dim=1)
    return logits[:, column] - rest.logsumexp(dim=1)
