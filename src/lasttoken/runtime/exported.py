"""An exported model as a classifier: texts -> probabilities, by whichever of its forms is asked for, or the fastest.

export.json says what the folder holds. Its logits are divided by the run's temperature, so that a softmax gives
calibrated probabilities; here they are multiplied by it again, for the run's whole policy follows.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from scipy.special import expit, softmax

from lasttoken.errors import ArtifactError, ConfigError
from lasttoken.evaluation.run_record import read_fact
from lasttoken.infer.portable import Reading
from lasttoken.journal import LOGGER, Progress, unheard
from lasttoken.labels import LabelSpace
from lasttoken.methods.classifier import Said
from lasttoken.record.artifact import read_settings
from lasttoken.record.folder import EXPORT, inside
from lasttoken.record.schema import Export, Form
from lasttoken.runtime.sessions import Session, of_module, open_session, workers_of
from lasttoken.text.batch import by_length
from lasttoken.text.tokenizer import Encoded
from lasttoken.wording import did_you_mean

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BUDGET = 1024  # tokens of a batch
CLOSE = 0.05  # largest difference from a probability of the run that a form may have which nobody chose


@dataclass(frozen=True, eq=False)
class ExportedModel:
    """A form of an exported model in its runtime."""

    labels: LabelSpace
    reading: Reading
    tokenizer: PreTrainedTokenizerBase
    session: Session
    temperature: float  # what the session's logits are divided by
    padding: int  # token id behind shorter texts: transformers finds their last token by it
    workers: int  # batches side by side

    def predict_proba(self, texts: Sequence[str], progress: Progress = unheard) -> Said:
        """Probabilities (N, C) float64 before calibration, row order kept."""
        return self.predict_encoded(self.encode(texts), progress)

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Token ids of the texts, as the run reads them."""
        return self.reading(self.tokenizer, texts)

    def predict_encoded(self, encoded: Encoded, progress: Progress = unheard) -> Said:
        """`predict_proba` of encoded texts, a batch on each core."""
        logits = np.zeros((len(encoded), len(self.labels)))
        batches, done = by_length(encoded.lengths, BUDGET), 0

        def compute(rows: np.ndarray) -> np.ndarray:
            return self.session(*padded(encoded, rows, self.padding))

        with ThreadPoolExecutor(self.workers) as pool:
            for rows, found in zip(batches, pool.map(compute, batches), strict=True):
                logits[rows] = found
                done += len(rows)
                progress(done, len(encoded))
        raw = logits * self.temperature
        return Said.of(expit(raw) if self.labels.multi else softmax(raw, axis=1), encoded)

    @property
    def on_accelerator(self) -> bool:
        """It runs on the CPU."""
        return False

    @property
    def has_gradients(self) -> bool:
        """No runtime gives them."""
        return False

    def differentiable(self, text: str) -> NoReturn:
        """Raises ConfigError."""
        raise ConfigError(["an exported model has no gradients; explain with the run, or --by removal"])

    def portable(self) -> NoReturn:
        """Raises ConfigError."""
        raise ConfigError(["this is an export already; export the run"])

    def save(self, folder: Path) -> NoReturn:
        """Raises ConfigError."""
        raise ConfigError(["an exported model is not saved again; copy its folder"])


def padded(encoded: Encoded, rows: np.ndarray, filler: int) -> tuple[np.ndarray, np.ndarray]:
    """(ids, mask) of the chosen rows, padded on the right, (B, L) int64 each."""
    lengths = encoded.lengths_of(rows)
    ids = np.full((len(rows), max(lengths)), filler, dtype=np.int64)
    mask = np.zeros_like(ids)
    for place, (row, length) in enumerate(zip(rows.tolist(), lengths, strict=True)):
        ids[place, :length], mask[place, :length] = encoded.ids[row], 1
    return ids, mask


def read_export(folder: Path, backend: str | None = None) -> Any:
    """The exported model in `folder`. backend: the name of a form, or auto for the fastest of those near the run.

    Raises ConfigError on an unknown form or without its package, ArtifactError where the folder is damaged.
    """
    facts, form = read_fact(folder / EXPORT, Export), form_of(folder, backend)
    if backend in (None, "auto") and len(facts.forms) > 1:
        LOGGER.info(
            "%s: by %s, which decided %.1f%% of %d validation rows as the run, probabilities within %.2g; --backend chooses",
            folder,
            form.name,
            100 * form.check.agreement,
            form.check.rows,
            form.check.largest,
        )
    if form.runtime == "lasttoken":
        from lasttoken.methods.instruction import of_export

        return of_export(folder)
    if facts.reading is None:
        raise ArtifactError(f"{folder / EXPORT}: says not how texts are read; export again")
    config, labels, _ = read_settings(folder)
    path = inside(folder, form.file)
    if form.runtime == "peft":
        from lasttoken.runtime.peft_model import read_adapter

        session = of_module(read_adapter(path, labels, facts.padding, config.quantize))
    else:
        session = open_session(form.runtime, path, form.precision)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(path if path.is_dir() else path.parent))
    reading = Reading(**facts.reading.model_dump())
    return ExportedModel(
        labels, reading, tokenizer, session, facts.temperature, facts.padding, workers_of(form.runtime)
    )


def quickest(forms: Sequence[Form]) -> Form:
    """The fastest form whose probabilities are the run's within CLOSE, the nearest where none is.

    Of those within a tenth of the fastest, which is noise, it is the one nearest to the run.
    """
    near = [form for form in forms if form.check.largest <= CLOSE]
    if not near:
        return min(forms, key=lambda form: form.check.largest)
    rate = max(form.check.rows_per_second for form in near)
    level = [form for form in near if form.check.rows_per_second >= 0.9 * rate]
    return max(level, key=lambda form: (form.check.agreement, -form.check.largest))


def form_of(folder: Path, backend: str | None) -> Form:
    """The form of that name, or the quickest of that runtime; for auto, or None, of all. Raises ConfigError."""
    facts = read_fact(folder / EXPORT, Export)
    forms = {form.name: form for form in facts.forms}
    if not forms:
        raise ArtifactError(f"{folder}: holds no model; export again")
    if backend in (None, "auto"):
        return quickest(facts.forms)
    of_runtime = [form for form in facts.forms if form.runtime == backend]
    if backend not in forms and of_runtime:  # onnx for the best of its forms
        return quickest(of_runtime)
    if backend not in forms:
        raise ConfigError(
            [
                f"--backend: {backend!r} is not in {folder}, which has auto, {', '.join(forms)}{did_you_mean(backend, forms)}"
            ]
        )
    return forms[backend]
