"""Fine-tune causal language models to classify text, and see with statistics which way is best for your data.

    from lasttoken import EmbeddingClassifier

    clf = EmbeddingClassifier("Qwen/Qwen3-0.6B-Base", quantize="nf4").fit(texts, labels)
    clf.predict_proba(["Arrived broken, twice."])  # (1, C)
    clf.save("runs/stars")

Several methods on the same rows, one report: `study(Data(source="reviews.csv"), {"linear": Linear(), ...}, "runs/reviews")`,
or from the command line `lasttoken compare reviews.csv --text body --label stars`. A run folder is read by `load(folder)`;
predictions from anywhere are judged by `compare({name: Predictions, ...})`. What is told on the way goes to the logger
"lasttoken". Every name below is loaded on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lasttoken.catalog import fit
    from lasttoken.check.examine import examine
    from lasttoken.config.methods import Embedding, Encoder, Instruction, Linear, Probe
    from lasttoken.config.run import Run
    from lasttoken.config.settings import Data, Decision, Lora, Training
    from lasttoken.data.dataset import Dataset, Splits
    from lasttoken.data.folds import make_folds
    from lasttoken.data.read import Columns, read_rows
    from lasttoken.data.split import make_splits
    from lasttoken.errors import ArtifactError, ConfigError, DataError, Diverged, ModelError, UserError
    from lasttoken.estimator import (
        EmbeddingClassifier,
        EncoderClassifier,
        InstructionClassifier,
        LinearClassifier,
        ProbeClassifier,
        load,
    )
    from lasttoken.evaluation.comparison import compare
    from lasttoken.evaluation.metrics import METRICS
    from lasttoken.evaluation.predictions import Predictions
    from lasttoken.labels import LabelSpace
    from lasttoken.predictor import Predictor
    from lasttoken.studies.many import Study, study

HOME = {
    "catalog": ("fit",),
    "check.examine": ("examine",),
    "config.methods": ("Embedding", "Encoder", "Instruction", "Linear", "Probe"),
    "config.run": ("Run",),
    "config.settings": ("Data", "Decision", "Lora", "Training"),
    "data.dataset": ("Dataset", "Splits"),
    "data.folds": ("make_folds",),
    "data.read": ("Columns", "read_rows"),
    "data.split": ("make_splits",),
    "errors": ("ArtifactError", "ConfigError", "DataError", "Diverged", "ModelError", "UserError"),
    "estimator": (
        "EmbeddingClassifier",
        "EncoderClassifier",
        "InstructionClassifier",
        "LinearClassifier",
        "ProbeClassifier",
        "load",
    ),
    "evaluation.comparison": ("compare",),
    "evaluation.metrics": ("METRICS",),
    "evaluation.predictions": ("Predictions",),
    "labels": ("LabelSpace",),
    "predictor": ("Predictor",),
    "studies.many": ("Study", "study"),
}

__all__ = [
    "METRICS",
    "ArtifactError",
    "Columns",
    "ConfigError",
    "Data",
    "DataError",
    "Dataset",
    "Decision",
    "Diverged",
    "Embedding",
    "EmbeddingClassifier",
    "Encoder",
    "EncoderClassifier",
    "Instruction",
    "InstructionClassifier",
    "LabelSpace",
    "Linear",
    "LinearClassifier",
    "Lora",
    "ModelError",
    "Predictions",
    "Predictor",
    "Probe",
    "ProbeClassifier",
    "Run",
    "Splits",
    "Study",
    "Training",
    "UserError",
    "compare",
    "examine",
    "fit",
    "load",
    "make_folds",
    "make_splits",
    "read_rows",
    "study",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version  # takes as long as everything else here

        return version("lasttoken")
    for module, names in HOME.items():
        if name in names:
            return getattr(import_module(f"lasttoken.{module}"), name)
    raise AttributeError(f"module 'lasttoken' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
