"""A real model on real rows: smollm2 fine-tuned on AG News and BANKING77, seconds and accuracy on their official tests."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from gpu_steps.place import Place, seconds_of
from lasttoken import catalog
from lasttoken.config.methods import Embedding
from lasttoken.config.settings import Training
from lasttoken.seed import generator

sys.path.append(str(Path(__file__).parents[1] / "quality"))  # behind the speed benchmark's, where names are the same
import problems

ROWS = 2000  # to train on: seconds, not minutes
TESTED = 1000


def score(place: Place) -> None:
    """Both data sets, three epochs of 2,000 rows each; `tiny` on few rows at toy size."""
    assert place.data is not None
    rows, tested, model = (90, 20, "tiny") if place.toy else (ROWS, TESTED, "smollm2")
    for name, read in {"AG News": lambda data: problems.ag_news(data, None), "BANKING77": problems.banking77}.items():
        splits = problems.fewer(read(place.data), rows)
        test = splits.test.take(generator(0, "tested rows").permutation(len(splits.test))[:tested])
        config = Embedding(model=model, train=Training(epochs=1.0 if place.toy else 3.0, batch=16))
        fitted: list[Any] = []

        def fit(config=config, splits=splits, fitted=fitted) -> None:
            fitted.append(catalog.fit(config, splits.train, splits.valid, device=place.device.type))

        seconds = seconds_of(fit, place.device)
        probs = fitted[0].classifier.predict_proba(test.texts).probs
        found = {"accuracy": float((probs.argmax(axis=1) == test.targets).mean()), "test rows": len(test)}
        place.note(name, {**found, "training rows": len(splits.train), "seconds": seconds})
