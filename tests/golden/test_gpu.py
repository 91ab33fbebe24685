"""What only a CUDA device shows: run by `pytest -m gpu` on a machine that has one, skipped elsewhere."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import dataset, write_model

from lasttoken import catalog
from lasttoken.config.methods import Embedding, Encoder, Instruction, Probe
from lasttoken.config.settings import Lora, Training

torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")]

QUICK: dict[str, Any] = {"epochs": 1.0, "batch": 4, "lr": 1e-3}


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("llama", Embedding(quantize="nf4", lora=Lora(r=4), train=Training(**QUICK))),
        ("llama", Embedding(pooling="mean", train=Training(**QUICK))),
        ("llama", Instruction(quantize="nf4", train=Training(optimizer="paged_adamw32bit", **QUICK))),
        ("llama", Instruction(train_model=False, decode="generate")),
        ("llama", Probe()),
        ("bert", Encoder(train=Training(**QUICK))),
    ],
    ids=["embedding-nf4", "embedding-mean", "instruction-nf4", "generate", "probe", "encoder"],
)
def test_fit_save_load_predict(kind: str, config: Any, tmp_path: Path) -> None:
    config = config.model_copy(update={"model": str(write_model(kind, tmp_path / "base"))})
    rows = dataset(20)
    fitted = catalog.fit(config, rows, rows, device="cuda").classifier
    (tmp_path / "run").mkdir()
    fitted.save(tmp_path / "run")
    again = catalog.load(tmp_path / "run", device="cuda").predict_proba(rows.texts).probs
    # Sums over tokens are not ordered on CUDA, so the last bits of a mean may differ.
    np.testing.assert_allclose(again, fitted.predict_proba(rows.texts).probs, atol=1e-5)


@pytest.mark.skipif(
    torch.cuda.is_available() and torch.cuda.get_device_capability() < (8, 0), reason="kernels need an Ampere or newer"
)
def test_one_kernel_for_all_texts_is_right_on_this_card() -> None:
    from lasttoken.model.varlen import verified_kernel

    for width in (64, 128):
        assert verified_kernel(torch.device("cuda", torch.cuda.current_device()), torch.bfloat16, width) is not None
