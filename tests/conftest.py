"""What every test shares: no network, a cache of its own, one thread, and random models that are made once."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from lasttoken.model.backbone import Backbone

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported; the light tests never import it
os.environ.setdefault("LASTTOKEN_PRECISION", "float32")  # the same on every machine
os.environ["LASTTOKEN_MODEL"] = "tiny"  # what is installed does not change the tests
os.environ["LASTTOKEN_CACHE"] = tempfile.mkdtemp(prefix="lasttoken-tests-")
sys.path.insert(0, str(Path(__file__).parent))  # `import tiny`

MODELS = {"folder", "load_fresh", "load_shared"}  # fixtures of tests that run a model


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Golden and property tests that run a model do so in float32 and in bfloat16, whatever the machine.

    The second is slow where the CPU has no bfloat16 of its own, and so marked.
    """
    if {"golden", "property"} & set(metafunc.definition.path.parts) and MODELS & set(metafunc.fixturenames):
        precisions = ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)]
        metafunc.parametrize("precision", precisions, indirect=True)


@pytest.fixture(autouse=True)
def precision(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What models compute in: as the test is parametrised, else as LASTTOKEN_PRECISION says."""
    chosen: str = getattr(request, "param", os.environ["LASTTOKEN_PRECISION"])
    monkeypatch.setenv("LASTTOKEN_PRECISION", chosen)
    return chosen


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a `lasttoken` that starts at once, for many commands in a row (warm.py)."""
    from warm import running

    with running(tmp_path_factory.mktemp("warm")) as found:
        yield found


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """folder(name, pad=..., bos=..., chat=...) -> the folder of a tiny model, see tiny.write_model."""
    from tiny import write_model

    made: dict[Any, Path] = {}

    def make(name: str, **variant: Any) -> Path:
        key = (name, *sorted(variant.items()))
        if key not in made:
            made[key] = write_model(name, tmp_path_factory.mktemp(name), **variant)
        return made[key]

    return make


@pytest.fixture(scope="session")
def load_fresh(folder: Callable[..., Path]) -> Callable[..., Backbone]:
    """load_fresh(name, kind=..., quantize=..., vocabulary=..., pad=...) -> a backbone on the CPU, free to be changed."""
    import torch

    from lasttoken.model.load import load

    def make(
        name: str, *, kind: Any = "decoder", quantize: Any = "none", vocabulary: bool = False, **variant: Any
    ) -> Backbone:
        place = str(folder(name, **variant))
        return load(place, kind=kind, device=torch.device("cpu"), quantize=quantize, vocabulary=vocabulary)

    return make


@pytest.fixture(scope="session")
def load_shared(load_fresh: Callable[..., Backbone]) -> Callable[..., Backbone]:
    """As load_fresh, made once a session: for tests that change nothing in it."""
    made: dict[Any, Backbone] = {}

    def get(name: str, **options: Any) -> Backbone:
        key = (name, os.environ["LASTTOKEN_PRECISION"], *sorted(options.items()))
        if key not in made:
            made[key] = load_fresh(name, **options)
        return made[key]

    return get
