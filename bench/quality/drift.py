"""How often does `lasttoken drift` give an alarm where nothing changed, and what does it see where something did?

    python bench/quality/drift.py --data ../shared/data [--draws 300] [--out bench/quality/drift.json]

A linear run on 2,000 rows of AG News. Of its 7,600 test rows 400 stand for validation rows and 300 others for a batch, drawn
anew each time; then the same batches changed: a topic left out, one row in ten from BANKING77, texts cut to half, typing
errors in a tenth of the letters.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from problems import PROBLEMS

from lasttoken import catalog
from lasttoken.config.methods import Linear
from lasttoken.config.settings import Decision
from lasttoken.evaluation.policy import fit_policy
from lasttoken.evaluation.predictions import Predictions
from lasttoken.watch.drift import Sample, drift, verdict

BATCH, KNOWN = 300, 400


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--draws", type=int, default=300)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "drift.json")
    given = parser.parse_args()
    splits = PROBLEMS["ag-news-4k"](given.data)
    train, test, names = splits.train.take(np.arange(2000)), splits.test, splits.labels.names
    classifier = catalog.fit(Linear(), train, splits.valid).classifier
    every = classifier.predict_proba(test.texts).probs
    others = PROBLEMS["banking77"](given.data).test.texts

    def outcome(change: Callable[[list[str], np.ndarray], list[str]], draws: int) -> dict[str, Any]:
        levels, tests = [], dict[str, int]()
        for draw in range(draws):
            # all three from the same rows, as the official files of AG News differ; the policy is fitted as a run fits it
            drawn = np.random.default_rng(draw).permutation(len(test))
            old, rows, rest = drawn[:KNOWN], drawn[KNOWN : KNOWN + BATCH], drawn[KNOWN + BATCH :][:1000]
            valid = test.take(old)
            policy, _ = fit_policy(Decision(), Predictions(valid.ids, valid.targets, every[old], valid.labels))
            texts = change([test.texts[i] for i in rows.tolist()], test.targets[rows])
            known = Sample(valid.texts, *policy(every[old], False))
            new = Sample(texts, *policy(classifier.predict_proba(texts).probs, False))
            found = drift(known, new, [test.texts[i] for i in rest.tolist()], names, seed=draw)
            levels.append(verdict(found))
            for one in found:
                tests[one.of] = tests.get(one.of, 0) + (one.level != "calm")
        share = {level: levels.count(level) / draws for level in ("calm", "changed", "worry")}
        return {"draws": draws, **share, "tests": {of: count / draws for of, count in sorted(tests.items())}}

    few = max(20, given.draws // 10)
    found = {
        "rows": {"validation": KNOWN, "batch": BATCH},
        "nothing changed": outcome(lambda texts, _: texts, given.draws),
        "a topic left out": outcome(lambda texts, y: [t for t, label in zip(texts, y, strict=True) if label], few),
        "one row in ten from BANKING77": outcome(lambda texts, _: with_others(texts, others), few),
        "texts cut to half": outcome(lambda texts, _: [t[: len(t) // 2] for t in texts], few),
        "typing errors in a tenth of the letters": outcome(lambda texts, _: [typed(t) for t in texts], few),
    }
    given.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    for name, one in found.items():
        print(name, one)


def with_others(texts: Sequence[str], others: Sequence[str]) -> list[str]:
    """A tenth of the texts replaced by others."""
    return [others[i % len(others)] if i % 10 == 0 else text for i, text in enumerate(texts)]


def typed(text: str) -> str:
    """A tenth of the letters replaced, the same for the same text."""
    rng = np.random.default_rng(len(text))
    letters = np.array(list(text))
    hit = rng.random(len(letters)) < 0.1
    letters[hit] = rng.choice(list("abcdefghijklmnopqrstuvwxyz"), hit.sum())
    return "".join(letters.tolist())


if __name__ == "__main__":
    main()
