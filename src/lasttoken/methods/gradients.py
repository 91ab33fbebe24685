"""How much each token speaks for a label: integrated gradients of a model's log-odds over its token embeddings.

Sundararajan 2017 (arXiv:1703.01365), by captum. The path begins at the mean embedding of the vocabulary, as long as a
token's is: models normalise what enters a block, so on a path from zero all would change at its very start. The model
is run as it predicts, packed, the copies on the path being so many texts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from lasttoken.errors import ConfigError, ModelError
from lasttoken.methods.classifier import Classifier
from lasttoken.methods.embedding import EmbeddingModel
from lasttoken.methods.encoder import EncoderModel
from lasttoken.methods.instruction import InstructionModel, answer_trees, encode_texts, prior_logits
from lasttoken.methods.probe import ProbeModel
from lasttoken.methods.reading import read_texts, token_limit
from lasttoken.methods.scoring import lay_out_trees, score
from lasttoken.model.attention import Layout, lay_out
from lasttoken.model.backbone import Backbone
from lasttoken.model.depth import tapped
from lasttoken.model.pooling import Pool
from lasttoken.text.tokenizer import Encoded, around, kept, stride, window_places
from lasttoken.text.tree import Tree

VOCABULARY = 16384  # embeddings at once
TOKENS = 4096  # on the path at once; memory depends on it, the result does not
Forward = Callable[[Tensor], Tensor]  # embeddings (B, T, H) of B copies of a text -> its logits (B, C)
Differentiable = EmbeddingModel | EncoderModel | InstructionModel | ProbeModel


@dataclass(frozen=True, eq=False)
class Attribution:
    """What each token that was read adds to a label's log-odds."""

    spans: list[tuple[int, int]]  # (T,) characters of the text; empty ones of special tokens
    scores: np.ndarray  # (T,) float64
    log_odds: float  # of the label, on the text
    start: float  # of the label, at the beginning of the path

    @property
    def gap(self) -> float:
        """What the scores lack of log_odds - start, as a share of it: how far the steps were too few."""
        return abs(float(self.scores.sum()) - (self.log_odds - self.start)) / max(abs(self.log_odds - self.start), 1e-9)


def attribute(model: Classifier, text: str, column: int, *, steps: int) -> Attribution:
    """The tokens' part in the log-odds of the label in `column`. Raises ConfigError where the method has no gradients."""
    if not isinstance(model, Differentiable):
        raise ConfigError(["explain by gradients: this method has none; use --by removal"])
    try:
        from captum.attr import IntegratedGradients
    except ImportError as error:
        raise ConfigError(
            ["explain by gradients needs captum: pip install 'lasttoken[explain]', or use --by removal"]
        ) from error
    backbone = model.backbone
    encoded, forward, size = prepared(model, text)
    layer = embedding_of(backbone)
    tokens = torch.from_numpy(encoded.ids[0].astype(np.int64)).to(backbone.device)
    with torch.no_grad():
        given = layer(tokens).float()[None]  # (1, T, H)
        neutral = neutral_of(layer).expand_as(given)

    def odds(embeddings: Tensor) -> Tensor:
        return log_odds(forward(embeddings), column, model.labels.multi)

    with torch.enable_grad():
        found = IntegratedGradients(odds).attribute(
            given, baselines=neutral, n_steps=steps, internal_batch_size=max(1, TOKENS // size)
        )
    with torch.no_grad():
        ends = odds(torch.cat([given, neutral])).double().cpu().tolist()
    return Attribution(spans(model, text, encoded), found.detach().sum(dim=2)[0].double().cpu().numpy(), *ends)


def neutral_of(layer: nn.Embedding) -> Tensor:
    """The direction of the mean embedding of all tokens, in the mean length of theirs: (H,) float32."""
    total, length, size = torch.zeros(()), 0.0, layer.num_embeddings
    for ids in torch.arange(size, device=layer.weight.device).split(VOCABULARY):
        found = layer(ids).float()  # through the layer: some scale what it gives
        total, length = total.to(found.device) + found.sum(dim=0), length + float(found.norm(dim=1).sum())
    mean = total / size
    return mean / mean.norm().clamp_min(1e-12) * (length / size)


def log_odds(logits: Tensor, column: int, multi: bool) -> Tensor:
    """Log-odds (B,) of one label against its absence, or with one label a row against all others; logits (B, C)."""
    if multi:
        return logits[:, column]
    rest = torch.cat([logits[:, :column], logits[:, column + 1 :]], dim=1)
    return logits[:, column] - rest.logsumexp(dim=1)


def prepared(model: Differentiable, text: str) -> tuple[Encoded, Forward, int]:
    """(the tokens that the model reads of a text, its logits as a function of their embeddings, tokens that a copy runs)."""
    if isinstance(model, InstructionModel):
        encoded = encode_texts(model.backbone, model.prompt, [text], model.config)
        behind = [len(tree.tokens) for _, tree in answer_trees(model.prompt, model.labels)]
        return encoded, answers_forward(model, encoded), sum(behind) + len(behind) * len(encoded.ids[0])
    encoded = read_texts(model.backbone, model.config, [text])
    if isinstance(model, ProbeModel):
        return encoded, probe_forward(model, encoded), len(encoded.ids[0])
    return encoded, head_forward(model, encoded), len(encoded.ids[0])


def embedding_of(backbone: Backbone) -> nn.Embedding:
    """The layer that turns tokens into vectors."""
    return cast("nn.Embedding", cast("Any", backbone.whole).get_input_embeddings())


def copies(backbone: Backbone, encoded: Encoded, count: int, causal: bool) -> tuple[Layout, Tensor | None]:
    """(the layout of `count` copies of a text, the last window of each or None)."""
    only = np.zeros(1, dtype=np.int64)
    layout = lay_out(encoded.segments(only) * count, causal=causal, device=backbone.device)
    windows = encoded.counts(only)
    last = None if windows is None else torch.arange(1, count + 1, device=backbone.device) * windows[0] - 1
    return layout, last


def flat(embeddings: Tensor, backbone: Backbone) -> Tensor:
    """(B, T, H) as one packed row (B * T, H), in the type of the model's weights."""
    return embeddings.reshape(-1, embeddings.shape[2]).to(embedding_of(backbone).weight.dtype)


def head_forward(model: EmbeddingModel | EncoderModel, encoded: Encoded) -> Forward:
    """Through the backbone and the head."""

    def forward(embeddings: Tensor) -> Tensor:
        layout, last = copies(model.backbone, encoded, len(embeddings), model.backbone.causal)
        with model.backbone.autocast():
            hidden = model.backbone.hidden(flat(embeddings, model.backbone), layout)
        return model.head(hidden, layout.ends, last)

    return forward


def probe_forward(model: ProbeModel, encoded: Encoded) -> Forward:
    """Through the frozen backbone up to the layer that is read, and the regression."""
    backbone, config = model.backbone, model.config
    pool, windows = Pool(config.pooling, backbone.width), Pool(config.long.combine, backbone.width)
    mean, scale, weight, bias = (
        torch.from_numpy(np.asarray(part, dtype=np.float32)).to(backbone.device)
        for part in (model.mean, model.scale, model.regression.weight, model.regression.bias)
    )

    def forward(embeddings: Tensor) -> Tensor:
        layout, last = copies(backbone, encoded, len(embeddings), backbone.causal and not config.bidirectional)
        with tapped(backbone, [model.layer]) as run, backbone.autocast():
            states = run(flat(embeddings, backbone), layout)[0]
        vectors = pool(states, layout.ends)
        vectors = vectors if last is None else windows(vectors, last)
        return (vectors - mean) / scale @ weight.T + bias

    return forward


def answers_forward(model: InstructionModel, encoded: Encoded) -> Forward:
    """Through the prompt and every label's answer; with several labels yes against no."""
    backbone, trees = model.backbone, answer_trees(model.prompt, model.labels)
    text, header = encoded.ids[0], len(model.prompt.header)
    order = np.argsort(np.concatenate([numbers for numbers, _ in trees]))
    prior = None if model.prior is None else prior_logits(model.prior, model.labels.multi)

    def paths(embeddings: Tensor, tree: Tree) -> Tensor:
        count = len(embeddings)
        batch = lay_out_trees(backbone, model.prompt.header, [text] * count, [tree] * count)
        packed = embedding_of(backbone)(batch.tokens)
        starts = header + torch.arange(count, device=backbone.device) * (len(text) + len(tree.tokens))
        places = (starts[:, None] + torch.arange(len(text), device=backbone.device)).reshape(-1)
        packed = packed.index_copy(0, places, flat(embeddings, backbone))
        with backbone.autocast():
            return torch.stack(score(backbone, batch, packed))  # (B, paths of the tree)

    def forward(embeddings: Tensor) -> Tensor:
        scores = torch.cat([paths(embeddings, tree) for _, tree in trees], dim=1)[:, order]  # (B, paths)
        odds = scores[:, 0::2] - scores[:, 1::2] if model.labels.multi else scores
        return odds if prior is None else odds - torch.from_numpy(prior).to(odds)

    return forward


def spans(model: Differentiable, text: str, encoded: Encoded) -> list[tuple[int, int]]:
    """The characters of each token that was read. Raises ModelError on a tokenizer that does not tell them."""
    tokenizer, special = model.backbone.tokenizer, not isinstance(model, InstructionModel)
    if not tokenizer.is_fast:
        raise ModelError(
            "explain by gradients: the tokenizer does not tell the characters of its tokens; use --by removal"
        )
    readable = text.encode("utf-8", "replace").decode()
    found = tokenizer(readable, add_special_tokens=special, return_offsets_mapping=True, verbose=False)[
        "offset_mapping"
    ]
    places = read_places(model, len(found), encoded)
    return [(0, 0) if k is None else (int(found[k][0]), int(found[k][1])) for k in places]


def read_places(model: Differentiable, length: int, encoded: Encoded) -> Sequence[int | None]:
    """Which of a text's `length` tokens stands at each place of `encoded`; None for the token of an empty text."""
    if length == 0:
        return [None]
    if length <= encoded.limit:
        return range(length)
    special, long = not isinstance(model, InstructionModel), model.config.long
    opening, closing = around(model.backbone.tokenizer) if special else (0, 0)
    room = encoded.limit - opening - closing
    if isinstance(model, InstructionModel) or model.config.long.keep != "windows":
        return kept(length, opening, closing, room, long.keep)  # type: ignore[arg-type]
    windows = window_places(length, opening, closing, room, stride(room, model.config.long.overlap))
    assert encoded.limit == token_limit(model.config, model.backbone)
    return [place for window in windows[: model.config.long.most] for place in window]
