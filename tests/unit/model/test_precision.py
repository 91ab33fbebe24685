"""The precision of a model: what is asked for, else what is faster here; a run keeps what it was computed in."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import dataset
from transformers import AutoConfig

import lasttoken
from lasttoken import catalog
from lasttoken.config.methods import Embedding, Encoder, Instruction, Probe
from lasttoken.config.settings import Lora, Training
from lasttoken.errors import ConfigError
from lasttoken.model.files import TINY
from lasttoken.model.precision import choose_precision, faster, key_of, rates, shape_of, slower_here, timed
from lasttoken.model.products import one_dnn_linear

CPU = torch.device("cpu")


def test_what_is_asked_for_is_taken_before_the_environment_and_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    for empty in ("auto", ""):
        monkeypatch.setenv("LASTTOKEN_PRECISION", empty)
        assert choose_precision(CPU).dtype == torch.float32  # not native: nothing to measure
    monkeypatch.setenv("LASTTOKEN_PRECISION", "bfloat16")
    assert choose_precision(CPU).name == "bfloat16"
    assert choose_precision(CPU, "float32").name == "float32"
    monkeypatch.setenv("LASTTOKEN_PRECISION", "float32")
    assert choose_precision(CPU, "bfloat16").dtype == torch.bfloat16


def test_a_precision_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LASTTOKEN_PRECISION", "fp16")
    with pytest.raises(ConfigError, match=r"^LASTTOKEN_PRECISION: 'fp16' is not among auto, float32, bfloat16$"):
        choose_precision(CPU)


def test_the_faster_one_is_taken_and_bfloat16_of_equals() -> None:
    assert faster({"float32": 3.3e11, "bfloat16": 1.7e11}).name == "float32"
    assert faster({"float32": 1e11, "bfloat16": 0.96e11}).name == "bfloat16"
    assert faster({"float32": 1e11, "bfloat16": 0.94e11}).name == "float32"
    assert faster({"float32": 1.05e11, "bfloat16": 4.8e11}).told == (
        "precision: bfloat16, whose matrix products run at 480 GFLOP/s here, 4.6 times as fast as float32 (105)"
    )


def config_of(method: str, folder: Callable[..., Path]) -> Any:
    """A quick config of a method on a small random model."""
    quick = Training(epochs=1, batch=8, metric="accuracy")
    if method == "embedding":
        return Embedding(model=str(folder("llama")), lora=Lora(r=2), train=quick)
    if method == "instruction":
        return Instruction(model=str(folder("llama")), train_model=False)
    if method == "probe":
        return Probe(model=str(folder("llama")), layer=1, regularisation=(1.0,))
    return Encoder(model=str(folder("bert")), train=quick)


def backbone_of(run: Path, **given: Any) -> Any:
    """The model of a saved run, loaded on the CPU."""
    loaded: Any = catalog.load(run, device="cpu", **given)
    return loaded.backbone


def kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, measured: dict[str, float], shape: tuple[int, int] = (128, 512)
) -> Path:
    """A cache folder that holds the figures of this machine, whose CPU has bfloat16."""
    monkeypatch.setenv("LASTTOKEN_CACHE", str(tmp_path))
    monkeypatch.setenv("LASTTOKEN_PRECISION", "auto")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    (tmp_path / "precision.json").write_text(json.dumps({key_of(shape): measured}))
    return tmp_path / "precision.json"


def test_figures_are_kept_by_machine_and_measured_again_where_they_are_damaged(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = kept(monkeypatch, tmp_path, {"float32": 2.0, "bfloat16": 1.0})
    assert choose_precision(CPU, shape=(128, 512)).dtype == torch.float32
    assert rates((128, 512)) == {"float32": 2.0, "bfloat16": 1.0}
    other = rates((64, 512))  # another shape is measured, and kept beside the first
    assert min(other.values()) > 1e6
    assert list(json.loads(file.read_text()).values()) == [{"float32": 2.0, "bfloat16": 1.0}, other]
    kept(monkeypatch, tmp_path, {"float32": 0.0, "bfloat16": 1.0})  # figures that cannot be
    assert min(rates((128, 512)).values()) > 1e6
    file.write_text("[1")
    assert min(rates((128, 512)).values()) > 1e6
    assert len(json.loads(file.read_text())) == 1


def test_what_is_not_measured_is_bfloat16_where_it_is_native(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    kept(monkeypatch, tmp_path, {"float32": 2.0, "bfloat16": 1.0})
    assert choose_precision(CPU, shape=(128, 512), measure=False).name == "bfloat16"
    monkeypatch.setenv("WORLD_SIZE", "2")  # processes that train together must not choose each for itself
    assert choose_precision(CPU, shape=(128, 512)).name == "bfloat16"


def test_figures_of_another_library_are_not_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    kept(monkeypatch, tmp_path, {"float32": 2.0, "bfloat16": 1.0})
    monkeypatch.setattr("lasttoken.model.precision.one_dnn_linear", lambda: None if one_dnn_linear() else "other")
    assert rates((128, 512))["float32"] > 1e6


def test_without_a_cache_folder_figures_are_measured_each_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LASTTOKEN_CACHE", str(tmp_path / "file"))
    assert rates((64, 64)).keys() == {"float32", "bfloat16"}


def test_large_layers_are_timed_by_smaller_ones(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    kept(monkeypatch, tmp_path, {"float32": 3.0, "bfloat16": 1.0}, (1024, 4096))
    assert rates((8192, 28672)) == {"float32": 3.0, "bfloat16": 1.0}


def test_products_are_timed_in_both() -> None:
    assert all(1e6 < rate < 1e15 for rate in timed((64, 128)).values())


def test_the_shape_is_that_of_the_config() -> None:
    config = AutoConfig.from_pretrained(TINY)
    assert shape_of(config) == (config.hidden_size, config.intermediate_size)


@pytest.mark.parametrize("method", ["embedding", "instruction", "probe", "encoder"])
def test_a_run_predicts_in_what_it_was_computed_in_and_otherwise_if_asked(
    folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    config = config_of(method, folder)
    monkeypatch.setenv("LASTTOKEN_PRECISION", "bfloat16")
    fitted = catalog.fit(config, dataset(16), dataset(9, seed=1), seed=0, device="cpu").classifier
    fitted.save(tmp_path)
    wanted = fitted.predict_proba(["one goal", "two violins"]).probs
    monkeypatch.setenv("LASTTOKEN_PRECISION", "float32")
    assert json.loads((tmp_path / "method.json").read_text())["config"]["precision"] == "bfloat16"
    assert np.array_equal(catalog.load(tmp_path).predict_proba(["one goal", "two violins"]).probs, wanted)
    wide = catalog.load(tmp_path, precision="float32").predict_proba(["one goal", "two violins"]).probs
    assert not np.array_equal(wide, wanted)
    np.testing.assert_allclose(
        wide, wanted, atol=0.1
    )  # bfloat16 has 8 bits: logits of size 1 differ by some hundredths


def test_a_precision_that_a_run_cannot_have_is_refused(tmp_path: Path) -> None:
    model = lasttoken.LinearClassifier().fit(["a b", "c d"] * 20, ["x", "y"] * 20)
    model.save(tmp_path / "run")
    with pytest.raises(ConfigError, match="precision: method linear runs no model that has one; leave it out"):
        lasttoken.load(tmp_path / "run", precision="float32")
    with pytest.raises(ConfigError, match="precision: 'fp16' is not among auto, float32, bfloat16"):
        lasttoken.load(tmp_path / "run", precision="fp16")


def test_a_machine_that_would_choose_otherwise_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = AutoConfig.from_pretrained(TINY)
    shape = (config.hidden_size, config.intermediate_size)
    kept(monkeypatch, tmp_path, {"float32": 2.0, "bfloat16": 1.0}, shape)
    assert slower_here(CPU, torch.float32, config) == ""
    assert slower_here(CPU, torch.bfloat16, config) == (
        "this run computes in bfloat16, as it was trained; float32 is 2.0 times as fast here: --precision float32 "
        "(precision= in Python) takes that, and probabilities then differ by rounding"
    )
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)  # nothing to measure
    assert "; float32 is faster here: --precision float32 " in slower_here(CPU, torch.bfloat16, config)
    kept(monkeypatch, tmp_path, {"float32": 1.0, "bfloat16": 1.02}, shape)
    assert slower_here(CPU, torch.float32, config) == ""  # bfloat16 would be chosen, and gain nothing


def test_the_sentence_is_a_warning_once_unless_a_precision_is_asked_for(
    folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = Probe(model=str(folder("llama")), layer=1, regularisation=(1.0,), precision="bfloat16")
    (tmp_path / "run").mkdir()
    catalog.fit(config, dataset(16), dataset(9, seed=1), device="cpu").classifier.save(tmp_path / "run")
    widths = shape_of(AutoConfig.from_pretrained(folder("llama")))
    assert widths is not None
    kept(monkeypatch, tmp_path, {"float32": 2.0, "bfloat16": 1.0}, widths)
    catalog.load(tmp_path / "run", device="cpu", precision="bfloat16")
    assert caplog.messages == []
    catalog.load(tmp_path / "run", device="cpu")
    assert [(one.levelname, one.message.partition(";")[2]) for one in caplog.records] == [
        (
            "WARNING",  # what `lasttoken predict` shows: it has no handler for less
            " float32 is 2.0 times as fast here: --precision float32 (precision= in Python) takes that, and "
            "probabilities then differ by rounding",
        )
    ]


@pytest.mark.parametrize("method", ["embedding", "instruction", "probe", "encoder"])
def test_a_run_of_before_the_record_is_not_measured(
    folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    config = config_of(method, folder)
    (tmp_path / "run").mkdir()
    catalog.fit(config, dataset(16), dataset(9, seed=1), device="cpu").classifier.save(tmp_path / "run")
    settings = tmp_path / "run" / "method.json"
    settings.write_text(settings.read_text().replace('"precision": "float32"', '"precision": "auto"'))
    assert json.loads(settings.read_text())["config"]["precision"] == "auto"
    assert backbone_of(tmp_path / "run").precision == "float32"  # as LASTTOKEN_PRECISION says
    widths = shape_of(AutoConfig.from_pretrained(folder("bert" if method == "encoder" else "llama")))
    assert widths is not None
    kept(monkeypatch, tmp_path, {"float32": 2.0, "bfloat16": 1.0}, widths)
    assert backbone_of(tmp_path / "run").precision == "bfloat16"
    assert backbone_of(tmp_path / "run", precision="auto").precision == "float32"


@pytest.mark.parametrize(("native", "wanted"), [(True, "bfloat16"), (False, "float32")])
def test_a_gpu_without_bfloat16_is_told_its_price(native: bool, wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LASTTOKEN_PRECISION", "auto")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native)
    chosen = choose_precision(torch.device("cuda"))
    assert chosen.name == wanted
    assert ("this GPU (older than Ampere) has no bfloat16" in chosen.told) == (not native)
