"""The check of a loaded model: what small weights cannot hide, and how much rounding a model is allowed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import SHAPE, make_tokenizer, write_model
from torch import Tensor
from transformers import AutoModel, LlamaConfig

from lasttoken.errors import ModelError
from lasttoken.model import verify as module
from lasttoken.model.backbone import Backbone, to_tensor
from lasttoken.model.layout import lay_out
from lasttoken.model.load import load
from lasttoken.model.verify import ALIKE, difference, gradients, is_causal, own_states, rounding, sees_others

CPU = torch.device("cpu")


def with_small_weights(name: str, folder: Path, scale: float) -> str:
    """A toy model whose matrices are so small that a token's states hardly depend on other tokens."""
    write_model(name, folder)
    model = AutoModel.from_pretrained(folder)
    with torch.no_grad():
        for matrix in (p for p in model.parameters() if p.ndim > 1):
            matrix.mul_(scale)
    model.save_pretrained(folder)
    return str(folder)


def test_an_encoder_is_known_by_gradients_where_values_hide_it(tmp_path: Path) -> None:
    name = with_small_weights("bert", tmp_path, 0.02)
    backbone = load(name, kind="any", device=CPU)
    backbone.whole.set_attn_implementation("eager")
    ids = np.array([5, 6, 7, 8])
    states, changed = own_states(backbone, ids), own_states(backbone, np.array([5, 6, 7, 9]))
    torch.testing.assert_close(states[:3], changed[:3], rtol=1e-3, atol=1e-3)  # as if it were causal
    assert not backbone.causal
    with pytest.raises(ModelError, match=r"is an encoder \(its tokens see both ways\); use --method encoder$"):
        load(name, kind="decoder", device=CPU)


def test_a_packed_text_that_sees_another_is_found_where_values_hide_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "usual", lambda dtype: 1.0)  # any states pass for equal
    monkeypatch.setattr(module, "ALIKE", 1.0)
    backbone = load(with_small_weights("jamba", tmp_path, 0.1), kind="decoder", device=CPU)
    assert "texts see each other" in backbone.padded


def test_without_gradients_bits_decide(load_shared: Callable[..., Backbone], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "gradients", lambda backbone, run: None)
    texts = [np.array([5, 6, 7]), np.array([8, 9]), np.array([10, 11])]
    llama, bert = load_shared("llama"), load_shared("bert", kind="encoder")
    assert not sees_others(llama, texts)
    for backbone, causal in ((load_shared("jamba"), True), (load_shared("t5", kind="encoder"), False)):
        ids = np.array([5, 6, 7, 8])
        assert is_causal(backbone, ids, own_states(backbone, ids)) == causal
    assert not bert.causal


def test_gradients_say_which_tokens_are_seen(load_shared: Callable[..., Backbone]) -> None:
    backbone, layout = load_shared("llama"), lay_out([3, 2])
    row = to_tensor(np.array([5, 6, 7, 8, 9]), backbone)
    seen = gradients(backbone, lambda: backbone.hidden(row, layout)[4])
    assert seen is not None
    assert seen[0, :5].tolist() == [False, False, False, True, True]

    def broken() -> Tensor:
        raise RuntimeError("no gradient here")

    assert gradients(backbone, broken) is None
    assert not backbone.module.get_input_embeddings()._forward_hooks  # type: ignore[union-attr,operator]


def deep(folder: Path, depth: int) -> str:
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    shape: dict[str, Any] = {**SHAPE, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": depth}
    model = AutoModel.from_config(LlamaConfig(**shape, vocab_size=len(tokenizer), max_position_embeddings=256))
    with torch.no_grad():
        for matrix in (p for p in model.parameters() if p.ndim > 1):
            matrix.mul_(10)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_a_deep_model_is_allowed_the_rounding_that_it_amplifies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own attention and packed attention differ by more than the usual 5 %, and so does rounding of its input."""
    found: list[float] = []
    monkeypatch.setattr(module, "difference", lambda a, b: found.append(difference(a, b)) or found[-1])
    backbone = load(deep(tmp_path, 160), kind="decoder", device=CPU, precision="bfloat16")
    assert not backbone.padded
    noise, apart = found[:2]
    assert 0.05 < apart < 3 * noise


def test_rounding_is_usual_or_what_the_model_makes_of_it(
    load_shared: Callable[..., Backbone], monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone, ids = load_shared("llama"), np.array([5, 6, 7])
    states = torch.ones(3, 64)
    for moved, bound in ((0.0, 1e-3), (0.04, 0.12), (2.0, ALIKE)):
        monkeypatch.setattr(module, "own_states", lambda backbone, ids, moved=moved: states * (1 + moved))
        assert rounding(backbone, ids, states) == pytest.approx(bound, rel=1e-4)


def test_a_difference_that_is_not_finite_is_infinite() -> None:
    one = torch.ones(2)
    assert difference(one, one * 2) == pytest.approx(0.5)
    assert difference(one * torch.nan, one) == difference(torch.ones(3), one) == float("inf")
