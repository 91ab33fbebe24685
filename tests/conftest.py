"""What every test shares: no network, a cache of its own, one thread, and random models that are made once."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from lasttoken.model.backbone import Backbone

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported; the light tests never import it
os.environ["LASTTOKEN_CACHE"] = tempfile.mkdtemp(prefix="lasttoken-tests-")
sys.path.insert(0, str(Path(__file__).parent))  # `import tiny`


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
    """load_fresh(name, kind=..., quantize=..., vocabulary=..., pad=...) -> a float32 backbone on the CPU, free to be changed."""
    import torch

    from lasttoken.model.backbone import load

    def make(
        name: str, *, kind: Any = "decoder", quantize: Any = "none", vocabulary: bool = False, **variant: Any
    ) -> Backbone:
        place = str(folder(name, **variant))
        return load(
            place, kind=kind, device=torch.device("cpu"), dtype=torch.float32, quantize=quantize, vocabulary=vocabulary
        )

    return make


@pytest.fixture(scope="session")
def load_shared(load_fresh: Callable[..., Backbone]) -> Callable[..., Backbone]:
    """As load_fresh, made once a session: for tests that change nothing in it."""
    made: dict[Any, Backbone] = {}

    def get(name: str, **options: Any) -> Backbone:
        key = (name, *sorted(options.items()))
        if key not in made:
            made[key] = load_fresh(name, **options)
        return made[key]

    return get
