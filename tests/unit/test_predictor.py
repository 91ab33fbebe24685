"""Answers, how often the model runs for them, and what cannot cross a process."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from sklearn.model_selection import GridSearchCV, cross_val_predict
from tiny import dataset, sentences

from lasttoken import (
    EmbeddingClassifier,
    EncoderClassifier,
    InstructionClassifier,
    LinearClassifier,
    ProbeClassifier,
)
from lasttoken.errors import ArtifactError, DataError, ModelError
from lasttoken.methods.classifier import Said
from lasttoken.model.backbone import Backbone
from lasttoken.predictor import PART, Predictor
from lasttoken.text.truncation import Truncation

ROWS = dataset(48)
NAMES = np.array(ROWS.labels.decode(ROWS.targets))


class Counting:
    """A classifier by rule that counts its calls."""

    def __init__(self) -> None:
        self.labels, self.calls = ROWS.labels, list[int]()

    encode, on_accelerator = staticmethod(list), False

    def predict_encoded(self, texts: Any) -> Said:
        self.calls.append(len(texts))
        probs = np.tile([0.2, 0.5, 0.3], (len(texts), 1))
        lost = np.array([len(text) % 2 for text in texts], dtype=np.int64)
        return Said(probs, lost, Truncation(len(texts), int(lost.sum()), 9, int(lost.sum()), 1, 4), lost > 0)


def test_answers_are_columns_of_what_was_said() -> None:
    found = Predictor(Counting())(["ab", "abc"])  # type: ignore[arg-type] - it neither saves nor explains
    assert (len(found), found.labels, found.decisions.tolist()) == (2, ["sport", "sport"], [1, 1])
    assert found.probs.tolist() == found.raw.tolist() == [[0.2, 0.5, 0.3]] * 2
    assert found.abstained.tolist() == [False, False]
    assert found.sets is None
    assert (found.lost.tolist(), found.truncation.cut) == ([0, 1], 1)
    assert found.invalid is not None
    assert found.invalid.tolist() == [False, True]


def test_the_same_texts_run_once_and_others_again() -> None:
    classifier = Counting()
    predictor = Predictor(classifier)  # type: ignore[arg-type]
    predictor(["a", "b"])
    predictor(["a", "b"])
    predictor(["ab"])
    predictor([])
    assert classifier.calls == [2, 1, 0]


def test_what_is_no_text_is_named() -> None:
    with pytest.raises(DataError, match=r"text 1 is None, no string; leave such rows out, or give an empty string"):
        Predictor(Counting())(["a", None])  # type: ignore[arg-type, list-item]


def test_many_texts_go_part_by_part() -> None:
    classifier = Counting()
    found = Predictor(classifier)(["a"] * (PART + 3))  # type: ignore[arg-type]
    assert classifier.calls == [PART, 3]
    assert (len(found), found.truncation.rows, found.lost.sum()) == (PART + 3, PART + 3, PART + 3)


def test_the_next_part_is_encoded_while_a_gpu_predicts() -> None:
    class Waiting(Counting):
        on_accelerator = True

        def __init__(self) -> None:
            super().__init__()
            self.read = threading.Semaphore(0)

        def encode(self, texts: Any) -> Any:
            self.read.release()
            return texts

        def predict_encoded(self, texts: Any) -> Said:
            assert len(texts) < PART or all(self.read.acquire(timeout=30) for _ in range(2))
            return super().predict_encoded(texts)

    assert len(Predictor(Waiting())(["a"] * (PART + 3))) == PART + 3  # type: ignore[arg-type]


def test_predict_abstains_and_sets_run_the_model_once(
    folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted = ProbeClassifier(
        str(folder("llama")), layer=1, device="cpu", decision_most_wrong=0.4, decision_coverage=0.8
    )
    fitted.fit(ROWS.texts, NAMES, valid=(ROWS.texts, NAMES))
    ran: list[int] = []
    hidden = Backbone.hidden_at

    def counted(self: Backbone, layers: Any, inputs: Any, layout: Any) -> Any:
        ran.append(len(inputs))
        return hidden(self, layers, inputs, layout)

    monkeypatch.setattr(Backbone, "hidden_at", counted)
    texts = sentences(5, seed=3)
    fitted.predict(texts)
    once = len(ran)
    fitted.abstains(texts)
    fitted.predict_sets(texts)
    fitted.predict_proba(texts, calibrated=False)
    assert len(ran) == once > 0


def estimator(name: str, folder: Callable[..., Path]) -> Any:
    """An estimator of every method, not yet fitted."""
    llama, bert = str(folder("llama")), str(folder("bert"))
    quick: dict[str, Any] = {"device": "cpu", "train_epochs": 1.0, "train_batch": 8}
    return {
        "embedding": lambda: EmbeddingClassifier(llama, lora_r=2, **quick),
        "instruction": lambda: InstructionClassifier(llama, lora_r=2, **quick),
        "encoder": lambda: EncoderClassifier(bert, **quick),
        "probe": lambda: ProbeClassifier(llama, layer=1, device="cpu"),
        "linear": lambda: LinearClassifier(),
    }[name]()


METHODS = ["embedding", "instruction", "encoder", "probe", "linear"]


@pytest.mark.parametrize("name", METHODS)
def test_a_fitted_estimator_is_pickled_or_says_how_to_save_it(
    name: str, folder: Callable[..., Path], tmp_path: Path
) -> None:
    fitted = estimator(name, folder)
    fitted = pickle.loads(pickle.dumps(fitted)).fit(ROWS.texts, NAMES)  # what is not fitted always is
    if name == "linear":
        joblib.dump(fitted, tmp_path / "fitted")
        for again in (pickle.loads(pickle.dumps(fitted)), joblib.load(tmp_path / "fitted"), copy.deepcopy(fitted)):
            assert np.array_equal(again.predict_proba(ROWS.texts), fitted.predict_proba(ROWS.texts))
        return
    sentence = "a fitted language model is not pickled; write it with save"
    for way in (pickle.dumps, copy.deepcopy, lambda one: joblib.dump(one, tmp_path / "fitted")):
        with pytest.raises(ModelError, match=sentence):
            way(fitted)


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.filterwarnings("ignore")  # of joblib's own processes
def test_scikit_learn_fits_it_in_processes(name: str, folder: Callable[..., Path]) -> None:
    made = estimator(name, folder)
    said = cross_val_predict(made, ROWS.texts, NAMES, cv=2, n_jobs=2)
    assert set(said) <= set(NAMES)
    assert np.array_equal(said, cross_val_predict(made, ROWS.texts, NAMES, cv=2, n_jobs=1))
    found = GridSearchCV(made, {"seed": [0, 1]}, cv=2, n_jobs=2).fit(ROWS.texts, NAMES)
    assert set(found.predict(ROWS.texts[:4])) <= set(NAMES)


def predict_in_child(fitted: Any, answers: Any) -> None:
    try:
        answers.put(fitted.predict(ROWS.texts[:4]).tolist())
    except Exception as error:
        answers.put(f"{type(error).__name__}: {error}")


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_process_that_was_forked_predicts_or_says_why_not(name: str, folder: Callable[..., Path]) -> None:
    """torch's threads do not survive a fork: a prediction of a language model hung for ever."""
    fitted = estimator(name, folder).fit(ROWS.texts, NAMES)
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    child = context.Process(target=predict_in_child, args=(fitted, answers))
    child.start()
    said = answers.get(timeout=60)
    child.join(60)
    if name == "linear":
        assert said == fitted.predict(ROWS.texts[:4]).tolist()
    else:
        assert said.startswith("ModelError: model ")
        assert "was loaded before this process was forked" in said
        assert "start processes by spawn" in said


def test_probabilities_that_are_not_finite_are_no_answer() -> None:
    class Broken(Counting):
        def predict_encoded(self, texts: Any) -> Said:
            return Said(np.full((len(texts), 3), np.nan), np.zeros(len(texts), dtype=np.int64))

    with pytest.raises(ArtifactError, match="2 rows have probabilities that are not finite, first id '0'; train again"):
        Predictor(Broken())(["a", "b"])  # type: ignore[arg-type]
