"""Compiled blocks say what plain ones say, and who cannot compile is told what to do."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from tiny import dataset
from torch import nn

from lasttoken import catalog
from lasttoken.config import Embedding, Training
from lasttoken.errors import ConfigError, ModelError
from lasttoken.experiment import compile_classifier
from lasttoken.journal import Journal
from lasttoken.methods.packed import in_batches, pack
from lasttoken.model import compiled
from lasttoken.model.adapter import adapt
from lasttoken.model.backbone import Backbone, load
from lasttoken.model.blocks import blocks_of
from lasttoken.model.compiled import compile_blocks, compiled_training, compiled_where
from lasttoken.model.depth import tapped
from lasttoken.model.lora import POOL, lora_layers
from lasttoken.text.tokenizer import Encoded

Uncompiled = torch._dynamo.exc.TorchDynamoException
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch, about itself, while it compiles


def encoded() -> Encoded:
    rng = np.random.default_rng(0)
    rows = [rng.integers(3, 299, n).astype(np.int32) for n in rng.integers(1, 40, 24)]
    return Encoded(rows, np.zeros(len(rows), dtype=np.int64), 64)


def hidden(backbone: Backbone, texts: Encoded, budget: int) -> list[torch.Tensor]:
    """The states in the middle and at the end of every row, as prediction runs them."""
    found: dict[int, torch.Tensor] = {}
    with tapped(backbone, [1, 2]) as run:

        def compute(rows: np.ndarray) -> torch.Tensor:
            batch = pack(texts, rows, backbone)
            with backbone.autocast():
                return torch.stack(run(batch.inputs, batch.layout), dim=1)  # (T, 2, H)

        for rows, states in in_batches(texts.lengths, compute, budget=budget, device=backbone.device):
            parts = states.split(texts.lengths[rows].tolist())
            found |= {int(row): part.clone() for row, part in zip(rows, parts, strict=True)}
    return [found[i] for i in range(len(texts))]


@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_compiled_blocks_give_what_plain_ones_give(name: str, load_fresh: Callable[..., Backbone]) -> None:
    backbone, texts = load_fresh(name), encoded()
    plain = hidden(backbone, texts, 100)
    calls = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert compile_blocks(backbone) > 0
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > calls
    for budget in (100, 10_000):  # side by side; and in one batch on all threads, which runs uncompiled
        for a, b in zip(hidden(backbone, texts, budget), plain, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)  # float32, sums in another order


def test_training_goes_on_uncompiled(load_fresh: Callable[..., Backbone], monkeypatch: pytest.MonkeyPatch) -> None:
    backbone, texts = load_fresh("llama"), encoded()
    monkeypatch.setattr(torch, "compile", lambda forward, dynamic: refused)
    monkeypatch.setattr(compiled, "on_one_thread", lambda backbone: [])
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    compile_blocks(backbone)
    batch = pack(texts, np.arange(3), backbone)
    backbone.hidden(batch.inputs, batch.layout)
    with torch.no_grad(), pytest.raises(RuntimeError, match="compiled"):
        backbone.hidden(batch.inputs, batch.layout)


def test_generation_is_not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes without a layout has a cache and an attention of its own, on which nothing was shown."""
    monkeypatch.setattr(torch, "compile", lambda forward, dynamic: refused)
    run = compiled_where(lambda states, **more: states + 1, lambda states: True)
    assert run(torch.zeros(1)) == 1
    with pytest.raises(RuntimeError, match="compiled"):
        run(torch.zeros(1), layout=object())


@pytest.mark.parametrize(
    ("checkpointing", "told"), [("off", "compiling took about"), ("on", "train.compile has no effect: activations")]
)
def test_a_fit_says_what_came_of_compiling(
    checkpointing: Literal["on", "off"], told: str, folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled_blocks: list[object] = []
    monkeypatch.setattr(torch, "compile", lambda forward, dynamic: compiled_blocks.append(forward) or forward)
    train = Training(epochs=1.0, batch=8, lr=1e-3, compile=True, checkpointing=checkpointing)
    rows, journal = dataset(24), Journal()
    catalog.fit(Embedding(model=str(folder("llama")), train=train), rows, rows, device="cpu", journal=journal)
    assert [note for note in journal.notes if note.startswith(told)]
    assert len(compiled_blocks) == (1 if checkpointing == "off" else 0)  # of two blocks the last runs for few tokens


def refused(*args: object, **kwargs: object) -> None:
    raise RuntimeError("compiled")


def test_compiled_training_learns_what_plain_training_learns(
    load_fresh: Callable[..., Backbone], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same draws of dropout, one for each linear, and with them the same gradients; the pool stays what it was."""
    backbone, texts = load_fresh("llama"), encoded()
    adapted = adapt(backbone, r=2, alpha=2.0, dropout=0.5, targets="all-linear", rslora=False, dora=False, seed=0)
    weights = [p for p in adapted.parameters() if p.requires_grad]
    for p in weights:
        nn.init.normal_(p, std=0.1, generator=torch.Generator().manual_seed(p.numel()))
    draws: list[tuple[torch.Size, int, int]] = []  # of what shape, for which time, where in the pool
    given: dict[tuple[torch.Size, int], int] = {}

    def draw(x: torch.Tensor, threshold: int) -> int:
        """Where the plain run drew when it asked for this shape as often as now; a new place where it did not."""
        time = sum(shape == x.shape for shape, *_ in draws)
        place = given.setdefault((x.shape, time), real(x, threshold))
        draws.append((x.shape, time, place))
        return place

    real = POOL.draw
    monkeypatch.setattr(POOL, "draw", draw)

    def gradients(rows: range) -> torch.Tensor:
        batch = pack(texts, np.array(rows), backbone)
        loss = backbone.hidden(batch.inputs, batch.layout)[batch.layout.ends].square().sum()
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, weights)])

    backbone.whole.train()
    parts = [range(4), range(4, 16), range(4)]
    plain = [gradients(rows) for rows in parts]
    first, kept = list(draws), {key: pool.clone() for key, pool in POOL.draws.items()}
    draws.clear()
    with compiled_training(backbone.whole):
        again = [gradients(rows) for rows in parts]
    assert "forward" not in vars(blocks_of(backbone.module)[1][0])
    assert len(first) == len(set(first)) == 3 * len(lora_layers(adapted))
    assert draws == first
    for a, b in zip(plain, again, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-3, atol=1e-4)  # float32, sums in another order
    assert not torch.allclose(plain[0], plain[2], rtol=1e-2)
    assert all(torch.equal(pool, kept[key]) for key, pool in POOL.draws.items())


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (
            Uncompiled("InvalidCxxCompiler: No working C++ compiler found"),
            ConfigError,
            r"install g\+\+ or clang\+\+",
        ),
        (
            Uncompiled("no such op\nand a trace"),
            ModelError,
            r"no such op \.\.\. and a trace; predict without --compile",
        ),
    ],
)
def test_a_failure_says_what_to_do_and_leaves_the_model_as_it_was(
    error: Exception, kind: type, words: str, load_fresh: Callable[..., Backbone], monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*args: object, **kwargs: object) -> None:
        raise error

    backbone = load_fresh("llama")
    monkeypatch.setattr(torch, "compile", lambda forward, dynamic: failing)
    with pytest.raises(kind, match=words):
        compile_blocks(backbone)
    hidden(backbone, encoded(), 100)


def test_other_results_are_refused(load_fresh: Callable[..., Backbone], monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = load_fresh("llama")
    monkeypatch.setattr(torch, "compile", lambda forward, dynamic: lambda states, **more: forward(states * 2, **more))
    with pytest.raises(ModelError, match="gives other results once it is compiled; predict without --compile"):
        compile_blocks(backbone)


def test_a_run_without_a_model_has_nothing_to_compile() -> None:
    with pytest.raises(ConfigError, match="no language model to compile"):
        compile_classifier(nn.Identity())  # type: ignore[arg-type]


def test_a_model_of_one_block_has_nothing_to_compile(folder: Callable[..., Path]) -> None:
    backbone = load(str(folder("llama")), kind="decoder", device=torch.device("cpu"), blocks=1)
    with pytest.raises(ConfigError, match="this model runs one block at most, which is not compiled; leave it out"):
        compile_blocks(backbone)
