"""What has no peer: time and memory from a thousand rows to a hundred thousand, and how soon a fresh process answers."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from models import CPU, LORA, folder_of, tokenizer_of
from ours import embedding_config, shortest

from lasttoken.data.dataset import Dataset
from lasttoken.data.read import Columns
from lasttoken.fitting.head import fit_head
from lasttoken.journal import Journal
from lasttoken.methods import embedding
from lasttoken.methods.embedding import EmbeddingModel
from lasttoken.model.adapter import adapt
from lasttoken.model.device import peak_memory, reset_peak
from lasttoken.model.lora import merged
from lasttoken.predict.file import Input, Output, predict_file
from lasttoken.predictor import Predictor

LIMIT = 512
Values = dict[str, list[float]]


def scale(
    model: str, rows: Dataset, work: Path, *, sizes: Sequence[int], repeats: Sequence[int], note: Callable[[str], None]
) -> dict[str, Any]:
    """Seconds a token and peak memory for each of `sizes` rows (those there are, over and over), and their ratios."""
    folder = folder_of(model, work)
    config = embedding_config(folder, quantize="none", batch=32, limit=LIMIT, merge="off")
    backbone, head = embedding.build(config, rows.labels, CPU, seed=0)
    adapter = adapt(backbone, **LORA.model_dump(), seed=0)
    predictor = Predictor(EmbeddingModel(config, rows.labels, backbone, adapter, head))
    lengths = np.array([min(LIMIT, len(x)) for x in tokenizer_of(folder)(list(rows.texts), verbose=False)["input_ids"]])
    found = []
    for size, times in zip(sizes, repeats, strict=True):
        places = np.resize(np.arange(len(rows)), size)
        tokens = int(lengths[places].sum())
        measured: Values = {"predict_seconds": [], "predict_memory": [], "train_seconds": [], "train_memory": []}
        write_csv(work / "rows.csv", rows, places)
        for _ in range(times):
            reset_peak(CPU)
            with merged(backbone.whole, "auto"):
                began = time.perf_counter()
                predict_file(
                    predictor,
                    work / "rows.csv",
                    work / "said.csv",
                    reads=Input(Columns(text=("text",))),
                    writes=Output(overwrite=True),
                )
                measured["predict_seconds"].append(time.perf_counter() - began)
            measured["predict_memory"].append(float(resident()))
        train = rows.take(places)
        train = Dataset([str(i) for i in range(size)], train.texts, train.targets, train.labels)
        for _ in range(times):
            reset_peak(CPU)
            trained = fit_head(backbone, head, (train, shortest(train)), config, seed=0, journal=Journal())
            measured["train_seconds"].append(trained.cost.seconds)
            measured["train_memory"].append(float(resident()))
        found.append({"rows": size, "tokens": tokens, **measured})
        note(json.dumps(found[-1]))
    return {"sizes": found, "measures": ratios(found[0], found[-1])}


def resident() -> int:
    """Bytes of the largest resident set since the last reset."""
    return peak_memory(CPU).bytes


def write_csv(path: Path, rows: Dataset, places: np.ndarray) -> None:
    """The rows at `places`, one text a line."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text"])
        writer.writerows([rows.texts[i]] for i in places.tolist())


def ratios(small: dict[str, Any], large: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """How much more a token costs, and memory takes, with the most rows than with the fewest."""
    found = {}
    for what in ("predict", "train"):
        each = [np.median(one[f"{what}_seconds"]) / one["tokens"] for one in (small, large)]
        peak = [np.median(one[f"{what}_memory"]) for one in (small, large)]
        runs = len(small[f"{what}_seconds"]) + len(large[f"{what}_seconds"])
        found[f"{what}_seconds_a_token"] = {"value": float(each[1] / each[0]), "unit": "times", "runs": runs}
        found[f"{what}_memory"] = {"value": float(peak[1] / peak[0]), "unit": "times", "runs": runs}
    return found


def startup(repeats: int) -> dict[str, Any]:
    """Wall seconds of `lasttoken --help` and of `import lasttoken`, each in a fresh process, the first one not counted."""
    command = str(Path(sys.executable).with_name("lasttoken"))
    asked = {"help_seconds": [command, "--help"], "import_seconds": [sys.executable, "-c", "import lasttoken"]}
    found = {}
    for name, words in asked.items():
        values = []
        for _ in range(repeats + 1):
            began = time.perf_counter()
            subprocess.run(words, capture_output=True, check=True)
            values.append(time.perf_counter() - began)
        kept = values[1:]
        found[name] = {"value": float(np.median(kept)), "unit": "seconds", "runs": len(kept), "values": kept}
    return {"measures": found}
