"""The label names' rows of a vocabulary head, tied or read from the files: times a hidden state they are the names' logits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from lasttoken.model.load import load
from lasttoken.model.vocabulary import name_rows, output_rows

CPU = torch.device("cpu")
IDS = [5, 2, 9, 5]


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2"])
@pytest.mark.parametrize("files", ["one", "shards"])
def test_rows_are_those_of_the_vocabulary_head(
    name: str, files: str, folder: Callable[..., Path], tmp_path: Path
) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(folder(name), dtype=torch.float32)
    place = folder(name)
    if files == "shards":
        place = tmp_path
        model.save_pretrained(place, max_shard_size="20kB")
        for other in folder(name).glob("tokenizer*"):
            (place / other.name).write_bytes(other.read_bytes())
        assert (place / "model.safetensors.index.json").is_file()
    found = output_rows(load(str(place), kind="decoder", device=CPU), None, IDS)
    assert found is not None
    assert torch.equal(found, model.get_output_embeddings().weight[IDS].float())


def test_a_file_without_the_usual_tensor_gives_no_rows(folder: Callable[..., Path]) -> None:
    backbone = load(str(folder("llama")), kind="decoder", device=CPU)
    backbone.config.tie_word_embeddings = False
    backbone.whole.save_pretrained(folder("llama") / "no_head")  # a model without vocabulary head
    other = type(backbone)(**{**vars(backbone), "name": str(folder("llama") / "no_head")})
    assert output_rows(other, None, IDS) is None
    assert name_rows(other, None, ["music", "sport"]) is None


def test_a_state_times_a_row_is_the_mean_logit_of_the_name_beside_other_names(folder: Callable[..., Path]) -> None:
    backbone = load(str(folder("llama")), kind="decoder", device=CPU, vocabulary=True)
    labels = ["music_band", "Sport", "trade"]
    rows = name_rows(backbone, None, labels)
    assert rows is not None
    assert backbone.vocabulary is not None
    state = torch.randn(backbone.width, generator=torch.Generator().manual_seed(0))
    logits = backbone.vocabulary(state[None])[0]
    ids = [
        backbone.tokenizer(f" {name}", add_special_tokens=False)["input_ids"]
        for name in ("music band", "Sport", "trade")
    ]
    each = torch.stack([logits[torch.tensor(one)].mean() for one in ids])
    assert torch.allclose(rows @ state, each - each.mean(), atol=1e-5)
