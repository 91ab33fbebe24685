"""What becomes of each of transformers' text models here: packed, padded, or refused and why.

`make models` writes docs/reference/models.md from this; tests/golden/test_every_model.py holds that page, and that what
is not refused gives the states and logits of the model's own forward for each text alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tiny import make_tokenizer
from torch import Tensor
from toy_models import BROKEN, CAUSAL, role, toy_model
from transformers import PreTrainedModel

from lasttoken.errors import ModelError
from lasttoken.model.backbone import Backbone
from lasttoken.model.layout import lay_out
from lasttoken.model.load import Source, load
from lasttoken.model.verify import answers_alone, answers_packed, own_states, sample_answers

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "models.md"
LENGTHS = (23, 9, 20, 1, 12)  # two of one batch of padded rows, and a text of one token


@dataclass(frozen=True)
class Outcome:
    """How a model runs."""

    kind: str  # decoder or encoder; empty where it is refused
    way: str  # packed, padded or refused
    why: str = ""  # why not packed, or why refused

    @property
    def row(self) -> str:
        """Its cells in the table of the page."""
        return f"{self.kind or '-'} | {self.way} | {self.why}"


def write_toy(model_type: str, folder: Path) -> PreTrainedModel:
    """The toy model of that type, written to `folder` with a tokenizer."""
    tokenizer = make_tokenizer(encoder=role(model_type) == "encoder")
    model = toy_model(model_type, len(tokenizer))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


def outcome(model_type: str, folder: Path) -> tuple[Outcome, list[Backbone]]:
    """(what becomes of the model, its backbones: the trunk alone and, of a decoder, with its vocabulary head)."""
    if model_type in BROKEN:
        return Outcome("", "refused", BROKEN[model_type]), []
    write_toy(model_type, folder)
    cpu = torch.device("cpu")
    try:
        found = [load(str(folder), kind="any", device=cpu)]
        if found[0].causal and model_type in CAUSAL:
            found.append(load(str(folder), kind="decoder", device=cpu, vocabulary=True))
    except ModelError as error:
        told = re.sub(r" by \d+%", "", str(error).partition(f"({model_type}) ")[2] or str(error))
        return Outcome("", "refused", told), []
    load(Source(str(folder), blocks=1), kind="any", device=cpu)  # as `probe` does with a layer it has chosen
    reason = re.search(r"packing is not exact for [\w-]+: (.*)\)$", found[0].padded)
    way = "padded" if found[0].padded else "packed"
    why = re.sub(r" by \d+%", "", reason[1]) if reason else ""  # of these weights
    return Outcome("decoder" if found[0].causal else "encoder", way, why), found


def texts(backbone: Backbone) -> list[Tensor]:
    """Texts of random tokens without special ones."""
    draw = torch.Generator().manual_seed(1)
    return [torch.randint(3, int(backbone.config.vocab_size), (n,), generator=draw) for n in LENGTHS]


@torch.inference_mode()
def in_a_batch(backbone: Backbone) -> Tensor:
    """Hidden states (T, H) of all texts in one batch; of a decoder also of answers behind a header, which may be cached."""
    layout = lay_out(LENGTHS, causal=backbone.causal)
    found = [backbone.hidden(torch.cat(texts(backbone)), layout)]
    if backbone.causal and backbone.padded:
        ids, layout = sample_answers(backbone)
        found += [backbone.hidden(torch.from_numpy(ids), layout)] * 2
    elif backbone.causal:
        found += answers_packed(backbone)
    return torch.cat(found)


@torch.inference_mode()
def one_by_one(backbone: Backbone) -> Tensor:
    """The same states, of each text and each answer alone, through the model's own attention."""
    module: Any = backbone.module
    module.set_attn_implementation("eager")
    found = [own_states(backbone, text.numpy()) for text in texts(backbone)]
    return torch.cat([*found, *([answers_alone(backbone)] * 2 if backbone.causal else [])])
