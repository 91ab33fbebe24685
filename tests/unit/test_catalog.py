"""Methods by name, and method folders that cannot be loaded."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny import dataset

from lasttoken import catalog
from lasttoken.config.methods import METHOD_CONFIGS, Embedding
from lasttoken.config.settings import Lora, Training
from lasttoken.errors import ArtifactError, ConfigError


@pytest.fixture(scope="module")
def original(folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved method folder on a base model of its own, which tests may change a copy of."""
    base = tmp_path_factory.mktemp("base")
    shutil.copytree(folder("llama"), base, dirs_exist_ok=True)
    config = Embedding(model=str(base), lora=Lora(r=2), train=Training(epochs=1, batch=8))
    place = tmp_path_factory.mktemp("method")
    catalog.fit(config, dataset(12), dataset(6, seed=1), device="cpu").classifier.save(place)
    return place


@pytest.fixture
def saved(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "method"))


def rewrite(saved: Path, change: Callable[[dict], object]) -> None:
    values = json.loads((saved / "method.json").read_text())
    change(values)
    (saved / "method.json").write_text(json.dumps(values))


def test_every_config_has_its_method_and_the_other_way_round() -> None:
    assert set(catalog.METHODS) == set(METHOD_CONFIGS)
    with pytest.raises(
        ConfigError, match=r"^method: 'magic' is not among embedding, instruction, encoder, probe, linear$"
    ):
        catalog.method("magic")


def test_a_whole_folder_loads(saved: Path) -> None:
    assert catalog.load(saved, device="cpu").predict_proba(["goal"]).probs.shape == (1, 3)


def test_a_method_of_a_later_version(saved: Path) -> None:
    rewrite(saved, lambda values: values["config"].update(method="magic"))
    with pytest.raises(ArtifactError, match=r"method 'magic' is not known to this version; update lasttoken$"):
        catalog.load(saved, device="cpu")


@pytest.mark.parametrize(
    "change",
    [
        lambda values: values.pop("config"),
        lambda values: values.pop("labels"),
        lambda values: values.pop("base"),
        lambda values: values["config"].update(pooling="best"),
        lambda values: values["labels"].update(names=["music"]),
        lambda values: values["labels"].update(names=["music", "sport"]),
    ],
    ids=["no config", "no labels", "no base", "bad config", "one label", "a label too few"],
)
def test_settings_that_are_damaged(saved: Path, change: Callable[[dict], object]) -> None:
    rewrite(saved, change)
    with pytest.raises(ArtifactError, match=r"method/(method\.json|head\.safetensors): damaged"):
        catalog.load(saved, device="cpu")


def test_settings_that_are_not_there_or_no_json(saved: Path) -> None:
    (saved / "method.json").write_text("{")
    with pytest.raises(ArtifactError, match=r"method\.json: damaged"):
        catalog.load(saved, device="cpu")
    (saved / "method.json").unlink()
    with pytest.raises(ArtifactError, match=r"method\.json: missing; this folder is not a whole run$"):
        catalog.load(saved, device="cpu")


def test_a_head_that_is_damaged_or_missing_or_of_another_size(saved: Path) -> None:
    place = saved / "head.safetensors"
    save_file({"layers.weight": torch.zeros(2, 64), "layers.bias": torch.zeros(2)}, place)
    with pytest.raises(ArtifactError, match=r"head\.safetensors: damaged"):
        catalog.load(saved, device="cpu")
    place.write_bytes(b"x")
    with pytest.raises(ArtifactError, match=r"head\.safetensors: damaged"):
        catalog.load(saved, device="cpu")
    place.unlink()
    with pytest.raises(ArtifactError, match=r"head\.safetensors: missing; this folder is not a whole run$"):
        catalog.load(saved, device="cpu")


def test_a_base_model_that_has_changed(saved: Path, folder: Callable[..., Path], tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(folder("qwen3"), other)
    rewrite(saved, lambda values: (values["base"].update(name=str(other)), values["config"].update(model=str(other))))
    with pytest.raises(
        ArtifactError,
        match=r"other: another model than the one that .* was trained on, or it has changed since; restore it, name the",
    ):
        catalog.load(saved, device="cpu")


def test_importing_the_methods_says_nothing() -> None:
    """Advice of a library on stderr would stand between our own lines."""
    load = "from lasttoken.catalog import METHODS, method; [method(name) for name in METHODS]"
    said = subprocess.run([sys.executable, "-c", load], capture_output=True, text=True, timeout=120, check=True)
    assert (said.stdout, said.stderr) == ("", "")
