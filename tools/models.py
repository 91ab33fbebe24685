"""Write docs/reference/models.md: how every text model of transformers runs here, tried on toy models."""

from __future__ import annotations

import os
import sys
import tempfile
from collections import Counter
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "LASTTOKEN_PRECISION": "float32", "OMP_NUM_THREADS": "1"}
sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import transformers
from every_model import PAGE, Outcome, outcome
from toy_models import TYPES

INTRODUCTION = """# Models

Which models of transformers {version} can be used, and how they run. Made by `make models`: a small random model of
every text architecture (causal, masked and text encoders, {count} in all) is loaded by `lasttoken`, and its states are
compared with those of the model's own forward for each text alone. `tests/golden/test_every_model.py` repeats it.

- **packed** ({packed}): texts stand in one row without padding. The fastest way, and the one that the speed tables
  measure.
- **padded** ({padded}): texts of similar length share a batch, padded on the right, with the model's own attention. On a
  CPU it took 1.3 times (137 tokens a text) to 2.7 times (12 tokens) as long with SmolLM2-135M; `instruction` runs a text
  again for every label, with four labels 2.9 to 6.2 times as long (`bench/speed/padded.py`).
- **refused** ({refused}): a text in a batch would get other states than alone, or the model does not read text.

A decoder serves `embedding`, `instruction` and `probe`; an encoder `encoder` and `probe`, also that of an
encoder-decoder (T5). The type is `model_type` in a model's config.json.

| model type | kind | batches | why not packed |
|---|---|---|---|
"""


def main() -> None:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    found: dict[str, Outcome] = {}
    for model_type in TYPES:
        with tempfile.TemporaryDirectory() as folder:
            found[model_type] = outcome(model_type, Path(folder))[0]
    ways = Counter(one.way for one in found.values())
    text = INTRODUCTION.format(version=transformers.__version__, count=len(found), **ways)
    PAGE.write_text(text + "".join(f"| `{name}` | {one.row} |\n" for name, one in found.items()), encoding="utf-8")


if __name__ == "__main__":
    main()
