"""A model cut between blocks: what enters a block, the early exit, and training on kept states against training on all."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import DECODERS, dataset, sentences

from lasttoken.config.methods import Embedding
from lasttoken.config.settings import Lora, Training
from lasttoken.errors import ConfigError, ModelError
from lasttoken.fitting.head import fit_head
from lasttoken.infer.batches import pack
from lasttoken.journal import Journal
from lasttoken.methods import embedding
from lasttoken.model.adapter import adapt
from lasttoken.model.backbone import Backbone
from lasttoken.model.layer_taps import blocks_of
from lasttoken.model.pooling import Head
from lasttoken.model.upper_blocks import above
from lasttoken.text.tokenizer import encode

CUT = ["llama", "qwen3", "mistral", "gemma3", "phi3", "olmo2", "smollm3", "gpt-neox"]
UNCUT = ["gpt2"]  # adds positions to whatever enters


def batch_of(backbone: Backbone) -> Any:
    encoded = encode(backbone.tokenizer, sentences(4, seed=5), limit=256)
    return pack(encoded, np.arange(4), backbone)


def test_the_lists_name_known_models() -> None:
    assert set(CUT + UNCUT) <= set(DECODERS)


def test_blocks_above_the_last_one_asked_for_do_not_run(load_shared: Callable[..., Backbone]) -> None:
    backbone = load_shared("llama")
    _, blocks = blocks_of(backbone.module)
    ran: list[int] = []
    hooks = [block.register_forward_hook(lambda *_, k=k: ran.append(k)) for k, block in enumerate(blocks)]
    batch = batch_of(backbone)
    with torch.inference_mode():
        backbone.hidden_at([1, 0], batch.inputs, batch.layout)
        assert ran == [0]
        backbone.hidden_at([0, 2], batch.inputs, batch.layout)
    for hook in hooks:
        hook.remove()
    assert ran == [0, 0, 1]


@pytest.mark.parametrize("name", CUT)
def test_the_upper_part_goes_on_from_the_kept_states(name: str, load_shared: Callable[..., Backbone]) -> None:
    backbone = load_shared(name)
    upper, batch = above(backbone, 1), batch_of(backbone)
    with torch.inference_mode():
        entering, leaving = backbone.hidden_at([1, backbone.depth], batch.inputs, batch.layout)
        torch.testing.assert_close(upper.hidden(entering, batch.layout), leaving, rtol=1e-5, atol=1e-5)
    assert upper.depth == backbone.depth - 1


def test_threads_do_not_see_each_other(load_shared: Callable[..., Backbone]) -> None:
    backbone = load_shared("llama")
    encoded = encode(backbone.tokenizer, sentences(12, seed=6), limit=256)
    batches = [pack(encoded, np.array([i]), backbone) for i in range(12)]

    def read(i: int) -> list[torch.Tensor]:
        with torch.inference_mode():
            return backbone.hidden_at([0, 1], batches[i].inputs, batches[i].layout)

    alone = [read(i) for i in range(12)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(read, [*range(12)] * 5))
    for i, states in enumerate(together):
        assert all(torch.equal(a, b) for a, b in zip(states, alone[i % 12], strict=True))


@pytest.mark.parametrize("name", UNCUT)
def test_a_model_that_cannot_be_cut_is_refused_by_name(name: str, load_shared: Callable[..., Backbone]) -> None:
    with pytest.raises(ModelError, match=r"^trunk: model '.*' \(gpt2\) does more than run its blocks"):
        above(load_shared(name), 1)


def test_a_block_must_be_left_to_train(load_shared: Callable[..., Backbone]) -> None:
    with pytest.raises(ConfigError, match=r"trunk: 2 asked for, but .* has 2 blocks; use 1 to 1, or 0"):
        above(load_shared("llama"), 2)


@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_training_on_kept_states_is_training_on_all(name: str, load_fresh: Callable[..., Backbone]) -> None:
    """The same adapter, data and order, the trunk recomputed or kept: float32 sums in another order apart."""
    rows, logits, weights = dataset(24), [], []
    for trunk in (0, 1):
        backbone = load_fresh(name)
        adapted = adapt(backbone, r=2, alpha=8.0, dropout=0.0, from_block=1, seed=1)
        torch.manual_seed(2)
        head = Head(backbone.width, len(rows.labels))
        config = Embedding(model=backbone.name, trunk=trunk, train=Training(epochs=3.0, lr=1e-2, batch=4))
        fit_head(backbone, head, (rows, rows), config, seed=0, journal=Journal())
        trained = [p.detach() for p in adapted.parameters() if p.requires_grad]
        assert len(trained) == 2 * 7  # A and B of one block
        weights.append(torch.cat([p.flatten() for p in trained]))
        batch = batch_of(backbone)
        with torch.inference_mode():
            logits.append(head(backbone.hidden(batch.inputs, batch.layout), batch.layout.ends))
    torch.testing.assert_close(weights[1], weights[0], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(logits[1], logits[0], rtol=1e-3, atol=1e-3)


def test_a_second_fit_reads_the_trunk_from_the_cache_and_a_saved_run_predicts_the_same(
    folder: Callable[..., Path], tmp_path: Path
) -> None:
    rows = dataset(24)
    config = Embedding(
        model=str(folder("qwen3")), trunk=1, lora=Lora(r=2), train=Training(epochs=1.0, lr=1e-3, batch=4)
    )
    first, second = Journal(), Journal()
    fitted = embedding.fit(config, rows, rows, seed=0, device="cpu", journal=first).classifier
    again = embedding.fit(config, rows, rows, seed=0, device="cpu", journal=second).classifier
    # train and validation are the same rows here, so the first fit finds the second part already
    assert [len([n for n in journal.notes if n.startswith("trunk from the cache")]) for journal in (first, second)] == [
        1,
        2,
    ]
    fitted.save(tmp_path)
    loaded = embedding.load(tmp_path, device="cpu")
    texts = sentences(5, seed=9)
    assert np.array_equal(loaded.predict_proba(texts).probs, fitted.predict_proba(texts).probs)
    assert np.array_equal(again.predict_proba(texts).probs, fitted.predict_proba(texts).probs)
