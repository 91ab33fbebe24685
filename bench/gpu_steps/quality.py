"""A real model on real rows: smollm2 fine-tuned on AG News and BANKING77, seconds and accuracy on their official tests."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from gpu_steps.place import Place, seconds_of
from lasttoken import catalog
from lasttoken.config.methods import Embedding
from lasttoken.config.settings import Training

sys.path.append(str(Path(__file__).parents[1] / "quality"))  # behind the speed benchmark's, where names are the same
import problems

ROWS = 2000  # to train on: seconds, not minutes
TESTED = 1000


def score(place: Place) -> None:
    """Both data sets, three epochs of 2,000 rows each; `tiny` on few rows at toy size."""
    assert place.data is not None
    rows, tested, model = (48, 20, "tiny") if place.toy else (ROWS, TESTED, "smollm2")
    sets = {"AG News": problems.ag_news(place.data, rows), "BANKING77": problems.banking77(place.data)}
    for name, splits in sets.items():
        train, test = splits.train.take(np.arange(len(splits.train))[:rows]), splits.test.take(np.arange(tested))
        valid = splits.valid.take(np.arange(min(len(splits.valid), tested // 2)))
        config = Embedding(model=model, train=Training(epochs=1.0 if place.toy else 3.0, batch=16))
        fitted: list[Any] = []

        def fit(config=config, train=train, valid=valid, fitted=fitted) -> None:
            fitted.append(catalog.fit(config, train, valid, device=place.device.type))

        seconds = seconds_of(fit, place.device)
        probs = fitted[0].classifier.predict_proba(test.texts).probs
        found = {"accuracy": float((probs.argmax(axis=1) == test.targets).mean()), "test rows": len(test)}
        place.note(name, {**found, "training rows": len(train), "seconds": seconds})
