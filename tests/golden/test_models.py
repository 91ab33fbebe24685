"""Packed rows against transformers' own padded batches, on random models of every architecture we name."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from precision import equal_but_for_rounding
from tiny import DECODERS, ENCODERS, NESTED, WIDTHS, sentences
from torch import Tensor
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedTokenizerBase

from lasttoken.infer.batches import pack
from lasttoken.model.backbone import Backbone
from lasttoken.model.pooling import Head
from lasttoken.text.tokenizer import encode

# float32 sums taken in another order: about 1e-6 of values of size 1 to 5
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
TEXTS = ["goal", *sentences(6, seed=1), "é 🎹 " * 3, sentences(1, seed=2)[0] * 4]


def padded(tokenizer: PreTrainedTokenizerBase, texts: list[str], pad: int, side: str = "right") -> dict[str, Tensor]:
    """A padded batch, made here so that a tokenizer without a padding token serves too."""
    rows = [tokenizer(text)["input_ids"] for text in texts]
    width = max(map(len, rows))
    ids, mask = [], []
    for row in rows:
        fill = [pad] * (width - len(row))
        ids.append(row + fill if side == "right" else fill + row)
        mask.append([1] * len(row) + [0] * len(fill) if side == "right" else [0] * len(fill) + [1] * len(row))
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


@torch.inference_mode()
def packed_hidden(backbone: Backbone, texts: list[str]) -> tuple[Tensor, Tensor]:
    """(hidden states (T, H), ends (B,)) of all texts in one packed row."""
    encoded = encode(backbone.tokenizer, texts, limit=256)
    batch = pack(encoded, np.arange(len(texts)), backbone)
    return backbone.hidden(batch.inputs, batch.layout), batch.layout.ends


def same_weights(score: Tensor, backbone: Backbone) -> Head:
    """Our head with the weights of a `score` layer of transformers."""
    head = Head(backbone.width, len(score), bias=False)
    with torch.no_grad():
        head.layers.weight.copy_(score)
    return head


@pytest.mark.parametrize("pad", ["own", "eos"])
@pytest.mark.parametrize("name", sorted(DECODERS | WIDTHS))
def test_logits_are_those_of_auto_model_for_sequence_classification(
    name: str, pad: str, folder: Callable[..., Path], load_shared: Callable[..., Backbone]
) -> None:
    backbone = load_shared(name, pad=pad)
    theirs = AutoModelForSequenceClassification.from_pretrained(
        folder(name, pad=pad), num_labels=3, dtype=backbone.compute, attn_implementation="eager"
    ).eval()
    theirs.config.pad_token_id = backbone.tokenizer.pad_token_id
    with torch.inference_mode():
        wanted = theirs(**padded(backbone.tokenizer, TEXTS, backbone.tokenizer.pad_token_id)).logits
        found = same_weights(theirs.score.weight, backbone)(*packed_hidden(backbone, TEXTS))
    assert wanted.std() > 0.05
    equal_but_for_rounding(found, wanted, backbone.compute, **CLOSE)


@pytest.mark.parametrize("name", sorted(DECODERS | NESTED))
def test_left_padding_gives_the_same_last_states(
    name: str, folder: Callable[..., Path], load_shared: Callable[..., Backbone]
) -> None:
    backbone = load_shared(name)
    theirs = AutoModel.from_pretrained(folder(name), dtype=backbone.compute, attn_implementation="eager").eval()
    batch = padded(backbone.tokenizer, TEXTS, backbone.tokenizer.pad_token_id, side="left")
    positions = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
    with torch.inference_mode():
        wanted = theirs(**batch, position_ids=positions).last_hidden_state[:, -1]
    hidden, ends = packed_hidden(backbone, TEXTS)
    equal_but_for_rounding(hidden[ends], wanted, backbone.compute, **CLOSE)


@pytest.mark.parametrize("name", sorted(ENCODERS))
def test_an_encoder_gives_the_hidden_states_of_auto_model(
    name: str, folder: Callable[..., Path], load_shared: Callable[..., Backbone]
) -> None:
    backbone = load_shared(name, kind="encoder")
    theirs = AutoModel.from_pretrained(folder(name), dtype=backbone.compute, attn_implementation="eager").eval()
    batch = padded(backbone.tokenizer, TEXTS, backbone.tokenizer.pad_token_id)
    with torch.inference_mode():
        wanted = theirs(**batch).last_hidden_state[batch["attention_mask"].bool()]
    equal_but_for_rounding(packed_hidden(backbone, TEXTS)[0], wanted, backbone.compute, **CLOSE)


@pytest.mark.parametrize("name", sorted(DECODERS | NESTED))
def test_the_vocabulary_head_gives_the_logits_of_auto_model_for_causal_lm(
    name: str, folder: Callable[..., Path], load_shared: Callable[..., Backbone]
) -> None:
    backbone = load_shared(name, vocabulary=True)
    theirs = AutoModelForCausalLM.from_pretrained(
        folder(name), dtype=backbone.compute, attn_implementation="eager"
    ).eval()
    batch = padded(backbone.tokenizer, TEXTS, backbone.tokenizer.pad_token_id)
    with torch.inference_mode():
        wanted = theirs(**batch).logits[batch["attention_mask"].bool()]
        found = backbone.vocabulary(packed_hidden(backbone, TEXTS)[0])
    equal_but_for_rounding(found, wanted, backbone.compute, rtol=1e-5, atol=3e-5)  # logits reach 20 here


@pytest.mark.parametrize("name", [*sorted(DECODERS | ENCODERS), "bloom", "falcon", "jamba", "qwen3.5"])
def test_every_layer_is_that_of_transformers(
    name: str, folder: Callable[..., Path], load_shared: Callable[..., Backbone]
) -> None:
    backbone = load_shared(name, kind="encoder" if name in ENCODERS else "decoder")
    theirs = AutoModel.from_pretrained(folder(name), dtype=backbone.compute, attn_implementation="eager").eval()
    encoded = encode(backbone.tokenizer, TEXTS[:1], limit=256)
    batch = pack(encoded, np.arange(1), backbone)
    with torch.inference_mode():
        found = torch.cat(backbone.hidden_at([0, 1, 2], batch.inputs, batch.layout))
        wanted = torch.cat(theirs(input_ids=batch.inputs[None], output_hidden_states=True).hidden_states)
    equal_but_for_rounding(found.view(3, len(encoded.ids[0]), 64), wanted, backbone.compute, **CLOSE)
