"""One fit of a tiny problem, whole, until an update, or from a state on: what tests of resuming run, here and in new processes.

python tests/resumed.py RUN.toml multi|single OUT.json [--until N] [--state FOLDER]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from tiny import dataset

from lasttoken import catalog
from lasttoken.config.parse import read_run
from lasttoken.journal import Journal
from lasttoken.train.state import TrainState


class Stopped(Exception):
    """The process ends here, as far as the training knows."""


def fitted(
    config: Any, *, multi: bool, state: TrainState | None = None, until: int = 0, into: Path | None = None
) -> Any:
    """What came of the fit: steps, end and a digest of the probabilities. until: when the state is written and Stopped raised."""
    train, valid = dataset(22, multi=multi), dataset(9, multi=multi, seed=1)
    state = TrainState() if state is None else state

    def watch(what: str, done: int, total: int) -> None:
        if until and what.startswith("training") and done == until:
            if into is not None and os.environ.get("RANK", "0") == "0":
                state.write(into)
            raise Stopped

    journal = Journal(tell=lambda sentence: None, progress=watch)
    found = catalog.fit(config, train, valid, seed=5, device="cpu", journal=journal, state=state)
    probs = found.classifier.predict_proba(dataset(7, multi=multi, seed=2).texts).probs
    steps = [(step.number, step.loss, step.lr, step.grad_norm, step.rows, step.score) for step in found.steps]
    end = (found.end.how, found.end.update, found.end.score)
    return json.loads(json.dumps([steps, end, hashlib.sha256(probs.tobytes()).hexdigest()]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("labels", choices=["multi", "single"])
    parser.add_argument("out", type=Path)
    parser.add_argument("--until", type=int, default=0)
    parser.add_argument("--state", type=Path)
    given = parser.parse_args()
    config, multi = read_run(given.run).method, given.labels == "multi"
    if given.until:
        try:
            fitted(config, multi=multi, until=given.until, into=given.state)
        except Stopped:
            return
        sys.exit("the training ended before that update")
    state = None if given.state is None else TrainState.read(given.state)
    found = fitted(config, multi=multi, state=state)
    if os.environ.get("RANK", "0") == "0":
        given.out.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
