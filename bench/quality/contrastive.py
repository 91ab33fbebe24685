"""The peer for few labels: SetFit (arXiv:2209.11055) on the same rows, one epoch in batches of 16, all else its defaults.

It is no dependency: `pip install --no-deps setfit sentence-transformers evaluate`. It has no use for validation rows, so it
trains on them too.
"""

from __future__ import annotations

import tempfile
import time
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from setfit import SetFitModel, Trainer, TrainingArguments

from lasttoken.data.dataset import Splits
from lasttoken.model.load import locate


def fit_and_predict(settings: dict[str, Any], splits: Splits, seed: int) -> tuple[np.ndarray, float, float]:
    """(probabilities of the test rows (N, C), seconds of training, seconds of prediction), one label a row."""
    torch.manual_seed(seed)
    model = SetFitModel.from_pretrained(locate(settings["model"]), device="cpu")
    parts = [splits.train, splits.valid]
    rows = Dataset.from_dict(
        {
            "text": [text for part in parts for text in part.texts],
            "label": [int(y) for part in parts for y in part.targets],
        }
    )
    with tempfile.TemporaryDirectory() as work:
        arguments = TrainingArguments(
            output_dir=work,
            batch_size=16,
            num_epochs=1,
            seed=seed,
            report_to="none",
        )
        began = time.perf_counter()
        Trainer(model=model, args=arguments, train_dataset=rows).train()
        seconds, began = time.perf_counter() - began, time.perf_counter()
        said = model.predict_proba(list(splits.test.texts), as_numpy=True)
        predict_seconds = time.perf_counter() - began
    probs = np.zeros((len(splits.test), len(splits.labels)))
    probs[:, np.asarray(model.model_head.classes_, dtype=np.int64)] = said
    return probs, seconds, predict_seconds
