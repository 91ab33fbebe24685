"""A loaded probe: only the blocks below its layer, and the same probabilities."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tiny import dataset

from lasttoken.config import Probe
from lasttoken.journal import Journal
from lasttoken.methods import probe
from lasttoken.model.depth import depth_of


@pytest.mark.parametrize(("layer", "blocks"), [(0, 1), (1, 2), (2, 2)])
@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt2"])
def test_blocks_above_the_layer_are_not_loaded(
    name: str, layer: int, blocks: int, folder: Callable[..., Path], tmp_path: Path
) -> None:
    rows = dataset(20)
    config = Probe(model=str(folder(name)), layer=layer)
    fitted = probe.fit(config, rows, rows, seed=0, device="cpu", journal=Journal())
    fitted.save(tmp_path)
    loaded = probe.load(tmp_path, device="cpu")
    assert depth_of(fitted.backbone) == 2
    assert depth_of(loaded.backbone) == blocks
    assert np.array_equal(loaded.predict_proba(rows.texts), fitted.predict_proba(rows.texts))
