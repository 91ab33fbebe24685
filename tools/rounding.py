"""How much of a model's rounding is its own: the figures behind the bound of model/verify.py, over all toy models.

    python tools/rounding.py

Prints, for every type of docs/reference/models.md in bfloat16: how far states move when the input embeddings are moved by
one unit in the last place, how far those in a batch are from those alone, and the ratio of the two.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "LASTTOKEN_PRECISION": "bfloat16", "OMP_NUM_THREADS": "1"}
sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import torch
import transformers
from every_model import in_a_batch, one_by_one, texts, write_toy
from toy_models import BROKEN, TYPES

from lasttoken.errors import ModelError
from lasttoken.model.load import load
from lasttoken.model.verify import difference, noise_of, own_states
from lasttoken.wording import first_line


def main() -> None:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    for model_type in (name for name in TYPES if name not in BROKEN):
        with tempfile.TemporaryDirectory() as folder:
            write_toy(model_type, Path(folder))
            try:
                backbone = load(folder, kind="any", device=torch.device("cpu"))
            except ModelError as error:
                print(f"{model_type}: refused ({error})")
                continue
            with torch.no_grad(), backbone.autocast():
                try:
                    together = in_a_batch(backbone)
                    alone, ids = one_by_one(backbone), texts(backbone)[0].numpy()
                    noise = noise_of(backbone, ids, own_states(backbone, ids))
                except (RuntimeError, ValueError) as error:  # no eager attention, or none for one token
                    print(f"{model_type}: left out ({first_line(error)})")
                    continue
            apart = difference(together, alone)
            print(
                f"{model_type}: noise {noise:.4f}, apart {apart:.4f}, ratio {apart / max(noise, 1e-9):.1f}", flush=True
            )


if __name__ == "__main__":
    main()
