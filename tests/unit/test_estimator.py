"""scikit-learn's contract, with real rows of the tiny topics."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone, is_classifier
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from tiny import dataset

from lasttoken import (
    ArtifactError,
    ConfigError,
    DataError,
    EmbeddingClassifier,
    InstructionClassifier,
    LinearClassifier,
    ProbeClassifier,
    load,
)
from lasttoken.config.settings import Decision
from lasttoken.evaluation.metrics import METRICS

ROWS = dataset(60)
TEXTS = list(ROWS.texts)
NAMES = np.array(ROWS.labels.decode(ROWS.targets))  # music, sport, trade
FITTED = LinearClassifier().fit(TEXTS, NAMES)


# Parameters


def test_parameters_are_the_settings_of_the_method() -> None:
    found = LinearClassifier().get_params()
    assert {name: found.pop(f"decision_{name}") for name in Decision.model_fields} == Decision().model_dump()
    assert found == {
        "characters": (3, 5),
        "class_weights": "none",
        "device": "auto",
        "hierarchy": None,
        "max_features": 200_000,
        "min_count": "auto",
        "regularisation": "auto",
        "seed": 0,
        "valid_share": 0.1,
        "words": (1, 2),
    }


def test_nested_settings_are_flat() -> None:
    params = EmbeddingClassifier("some/model", lora_r=4, train_epochs=1.5).get_params()
    assert (params["model"], params["lora_r"], params["train_epochs"], params["train_batch"]) == (
        "some/model",
        4,
        1.5,
        8,
    )


def test_defaults_are_those_of_the_method() -> None:
    params = InstructionClassifier().get_params()
    assert (params["lora_r"], params["train_epochs"], params["train_schedule"]) == (64, "auto", "cosine")


def test_set_params() -> None:
    found = LinearClassifier().set_params(min_count=1, seed=3)
    assert (found.get_params()["min_count"], found.get_params()["seed"]) == (1, 3)


def test_unknown_setting_is_refused() -> None:
    with pytest.raises(TypeError, match=r"^LinearClassifier has no setting 'min_cuont'; did you mean 'min_count'\?$"):
        LinearClassifier(min_cuont=1)
    with pytest.raises(TypeError, match="LinearClassifier has no setting 'model'; known are characters, class_weights"):
        LinearClassifier(model="tiny")
    with pytest.raises(ValueError, match="Invalid parameter 'min_cuont' for estimator"):
        LinearClassifier().set_params(min_cuont=1)


def test_value_that_cannot_be_is_refused_at_fit_with_all_others() -> None:
    with pytest.raises(ConfigError) as caught:
        LinearClassifier(min_count=0, class_weights="some").fit(TEXTS, NAMES)
    assert sorted(problem.partition(":")[0] for problem in caught.value.problems) == ["class_weights", "min_count"]


@pytest.mark.parametrize(("name", "value"), [("seed", -1), ("valid_share", 1.5), ("device", "gpu"), ("seed", "a")])
def test_what_every_estimator_has_is_checked_too(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=name):
        LinearClassifier(**{name: value}).fit(TEXTS, NAMES)


def test_clone_has_the_parameters_and_nothing_learnt() -> None:
    copy = clone(LinearClassifier(min_count=1, seed=7).fit(TEXTS, NAMES))
    assert copy.get_params() == LinearClassifier(min_count=1, seed=7).get_params()
    with pytest.raises(NotFittedError):
        copy.predict(TEXTS)
    assert clone(EmbeddingClassifier("some/model", lora_r=4)).get_params()["lora_r"] == 4


def test_it_can_be_shown() -> None:
    assert "min_count=5" in repr(LinearClassifier(min_count=5))
    assert repr(EmbeddingClassifier("some/model")).startswith("EmbeddingClassifier(")
    assert "LinearClassifier" in LinearClassifier()._repr_html_()


def test_it_is_a_classifier() -> None:
    assert is_classifier(LinearClassifier())


# Fit and predict


def test_strings_come_back() -> None:
    assert FITTED.classes_.tolist() == ["music", "sport", "trade"]
    assert FITTED.predict(["guitar and drums", "the team and its coach", "bank shares"]).tolist() == [
        "music",
        "sport",
        "trade",
    ]
    assert FITTED.score(TEXTS, NAMES) == 1.0  # texts are made of the words of their labels


def test_integers_come_back() -> None:
    numbers = np.array([10, 2, 33])[ROWS.targets]  # whose order differs from that of their names
    found = LinearClassifier().fit(TEXTS, numbers)
    assert found.classes_.tolist() == [2, 10, 33]
    assert found.predict(TEXTS).dtype == numbers.dtype
    assert found.predict(TEXTS).tolist() == numbers.tolist()
    assert found.classes_[found.predict_proba(TEXTS).argmax(axis=1)].tolist() == numbers.tolist()


def test_booleans_come_back() -> None:
    truth = ROWS.targets == 1
    found = LinearClassifier().fit(TEXTS, truth)
    assert found.predict(TEXTS).dtype == bool
    assert found.predict(TEXTS).tolist() == truth.tolist()


def test_series_may_be_given() -> None:
    found = LinearClassifier().fit(pd.Series(TEXTS), pd.Series(NAMES))
    assert found.predict(pd.Series(TEXTS)).tolist() == NAMES.tolist()
    assert np.array_equal(found.predict_proba(TEXTS), FITTED.predict_proba(TEXTS))


def test_probabilities() -> None:
    probs = FITTED.predict_proba(TEXTS[:5])
    assert (probs.shape, probs.dtype) == ((5, 3), np.float64)
    np.testing.assert_allclose(probs.sum(axis=1), 1, atol=1e-12)  # float64


def test_the_same_seed_gives_the_same() -> None:
    again = LinearClassifier().fit(TEXTS, NAMES)
    assert np.array_equal(again.predict_proba(TEXTS), FITTED.predict_proba(TEXTS))


@pytest.mark.parametrize(
    ("second", "shown"),
    [(float("nan"), "nan"), ("bad", "'bad'"), (None, "None"), (["a", ""], r"\['a', ''\]"), ([None], r"\[None\]")],
)
def test_among_lists_of_labels_every_row_is_one(second: Any, shown: str) -> None:
    told = rf"^the labels of text 1 are {shown}, but other texts have lists of names; give a list of names, \[\] for a text"
    with pytest.raises(DataError, match=told):
        LinearClassifier().fit(["a", "b"], [["x"], second])


def test_validation_texts_may_all_have_no_label() -> None:
    fitted = LinearClassifier(min_count=1).fit(
        ["a b", "b c"] * 5, [["x"], ["x", "y"]] * 5, valid=(["a", "c"], [[], []])
    )
    assert fitted.classes_.tolist() == ["x", "y"]
    assert fitted.predict_proba(["a"]).shape == (1, 2)


def test_indicator() -> None:
    many = dataset(90, multi=True)
    found = LinearClassifier().fit(many.texts, many.targets.astype(int))
    assert found.classes_.tolist() == [0, 1, 2]
    decided = found.predict(many.texts)
    assert (decided.shape, decided.dtype) == ((90, 3), np.int64)
    assert np.array_equal(decided, found.predict_proba(many.texts) >= 0.5)
    assert found.score(many.texts, many.targets.astype(int)) > 0.5  # of whole rows right; by chance some .1


def test_valid_keeps_all_rows_for_training() -> None:
    more = dataset(30, seed=1)
    given = LinearClassifier().fit(TEXTS, NAMES, valid=(more.texts, np.array(more.labels.decode(more.targets))))
    assert given.notes_[-2].endswith("features of 60 rows")
    assert FITTED.notes_[-2].endswith("features of 54 rows")


def test_cross_validation() -> None:
    scores = cross_val_score(LinearClassifier(), TEXTS, NAMES, cv=3)
    assert scores.shape == (3,)
    assert scores.min() > 0.9


def test_grid_search() -> None:
    search = GridSearchCV(LinearClassifier(), {"characters": [(0, 0), (3, 5)]}, cv=2).fit(TEXTS, NAMES)
    assert search.best_params_["characters"] in [(0, 0), (3, 5)]
    assert search.predict(["guitar and piano"]).tolist() == ["music"]


@pytest.mark.parametrize("kind", [EmbeddingClassifier, ProbeClassifier])
def test_language_model(folder: Callable[..., Path], kind: Any) -> None:
    settings = {"train_epochs": 1.0, "train_lr": 5e-3} if kind is EmbeddingClassifier else {}
    found = kind(str(folder("llama")), device="cpu", **settings).fit(TEXTS, NAMES)
    probs = found.predict_proba(TEXTS[:4])
    assert probs.shape == (4, 3)
    np.testing.assert_allclose(probs.sum(axis=1), 1, atol=1e-6)  # softmax in float64 of float32 logits
    assert set(found.predict(TEXTS)) <= {"music", "sport", "trade"}
    assert sum(step.rows for step in found.steps_) == (54 if kind is EmbeddingClassifier else 0)
    assert found.score(TEXTS, NAMES) > 1 / 3  # which is chance


# What is refused


def test_before_fit() -> None:
    with pytest.raises(NotFittedError):
        LinearClassifier().predict_proba(TEXTS)


@pytest.mark.parametrize(
    "call", [lambda: LinearClassifier().fit("one text", ["a", "b"]), lambda: FITTED.predict("one text")]
)
def test_one_string(call: Callable[[], Any]) -> None:
    with pytest.raises(DataError, match="texts must be a list of strings, got one string; put it into a list"):
        call()


def test_text_that_is_none() -> None:
    with pytest.raises(DataError, match="text 1 is None, not a string; drop or fill such rows"):
        LinearClassifier().fit(["a", None], ["x", "y"])


@pytest.mark.parametrize(
    "missing",
    [
        [*NAMES[:-1].tolist(), None],
        [*NAMES[:-1].tolist(), float("nan")],
        np.array([*ROWS.targets[:-1].tolist(), float("nan")]),
        pd.Series([*NAMES[:-1].tolist(), None]),
        pd.Series([*ROWS.targets[:-1].tolist(), None], dtype="Int64"),
    ],
    ids=["None", "NaN among strings", "NaN among numbers", "series of strings", "series of integers"],
)
def test_missing_label(missing: Any) -> None:
    with pytest.raises(DataError, match="labels are None or NaN; drop or fill such rows"):
        LinearClassifier().fit(TEXTS, missing)


def test_costs_by_the_labels_own_values(tmp_path: Path) -> None:
    costs = {1: {0: 50, 2: 50}}
    model = LinearClassifier(decision_costs=costs).fit(TEXTS, ROWS.targets)
    plain = clone(FITTED).fit(TEXTS, ROWS.targets)
    assert clone(model).get_params()["decision_costs"] == costs
    vague = ["the of and", "a word", "none of these"]
    assert (model.predict(vague) == 1).sum() > (plain.predict(vague) == 1).sum()
    model.save(tmp_path / "run")
    np.testing.assert_array_equal(load(tmp_path / "run").predict(vague).astype(int), model.predict(vague))
    with pytest.raises(DataError, match="unknown label"):
        LinearClassifier(decision_costs={7: {0: 2}}).fit(TEXTS, ROWS.targets)


def test_probabilities_that_are_not_finite_are_no_answer() -> None:
    model = clone(FITTED).fit(TEXTS, NAMES)
    weight = model.predictor_.classifier.regression.weight
    weight[0] = np.nan
    for answer in (model.predict, model.predict_proba):
        with pytest.raises(ArtifactError, match="2 rows have probabilities that are not finite, first id '0'"):
            answer(TEXTS[:2])


def test_numbers_of_texts_and_labels_differ() -> None:
    with pytest.raises(DataError, match="60 texts and 59 labels; give one label"):
        LinearClassifier().fit(TEXTS, NAMES[:-1])


def test_one_class() -> None:
    with pytest.raises(DataError, match=r"labels hold 1 class\(es\): \['music'\]; two or more are needed"):
        LinearClassifier().fit(TEXTS, ["music"] * 60)


def test_indicator_of_other_numbers() -> None:
    with pytest.raises(DataError, match="labels with two dimensions must be 0 or 1, one column per label"):
        LinearClassifier().fit(TEXTS, np.full((60, 3), 2))


def test_validation_label_that_training_lacks() -> None:
    with pytest.raises(DataError, match=r"validation labels \['golf'\] are not among the training labels"):
        LinearClassifier().fit(TEXTS, NAMES, valid=(["a"], ["golf"]))


def test_validation_of_another_kind() -> None:
    with pytest.raises(DataError):
        LinearClassifier().fit(TEXTS, NAMES, valid=(["a"], np.array([[1, 0, 0]])))
    with pytest.raises(DataError):
        LinearClassifier().fit(TEXTS, np.eye(3, dtype=int)[ROWS.targets], valid=(["a"], ["music"]))


def test_too_few_rows_to_hold_any_out() -> None:
    with pytest.raises(
        DataError, match=r"2 rows are too few to hold out 10% for validation; give valid=\(texts, labels\)"
    ):
        LinearClassifier().fit(["a guitar", "a goal"], ["music", "sport"])


def test_a_table_of_one_column_is_that_column_and_more_are_refused() -> None:
    frame = pd.DataFrame({"body": TEXTS[:5], "other": TEXTS[:5]})
    assert np.array_equal(FITTED.predict_proba(frame[["body"]]), FITTED.predict_proba(TEXTS[:5]))
    with pytest.raises(DataError, match=r"^texts must be one column, got 2; pass one, or join them into one first$"):
        FITTED.predict_proba(frame)


def test_a_fitted_estimator_can_be_pickled() -> None:
    again = pickle.loads(pickle.dumps(FITTED))
    assert np.array_equal(again.predict_proba(TEXTS), FITTED.predict_proba(TEXTS))


# Calibration and decisions


def several(n: int, seed: int = 0) -> tuple[list[str], list[list[str]]]:
    """Texts of one to three topics, a third of them about something else than their words say."""
    random = np.random.default_rng(seed)
    names = ["music", "sport", "trade"]
    words = {"music": "guitar drums", "sport": "goal team", "trade": "bank export"}
    truth = [[name for name in names if random.random() < 0.4] for _ in range(n)]
    said = [[name for name in names if (name in row) != (random.random() < 0.2)] for row in truth]
    return [" ".join(words[name] for name in row) or "nothing much" for row in said], truth


def test_probabilities_are_calibrated_and_the_raw_ones_a_word_away() -> None:
    texts, labels = several(1500)
    found = LinearClassifier(min_count=1, valid_share=0.4, decision_calibration="platt").fit(texts, labels)
    others, truth = several(1500, seed=1)
    y = np.array([[name in row for name in ("music", "sport", "trade")] for row in truth])
    log_loss = METRICS["log_loss"]
    assert log_loss(y, found.predict_proba(others)) < log_loss(y, found.predict_proba(others, calibrated=False)) + 0.002
    assert not np.array_equal(found.predict_proba(texts), found.predict_proba(texts, calibrated=False))
    off = LinearClassifier(min_count=1, valid_share=0.4, decision_calibration="off").fit(texts, labels)
    assert np.array_equal(off.predict_proba(texts), found.predict_proba(texts, calibrated=False))


def test_what_was_decided_is_saved_and_loaded(tmp_path: Path) -> None:
    texts, labels = several(1000)
    settings: dict[str, Any] = {"decision_coverage": 0.8, "decision_at_least_one": True}
    found = LinearClassifier(min_count=1, valid_share=0.3, **settings).fit(texts, labels)
    found.save(tmp_path / "run")
    again = load(tmp_path / "run")
    assert again.get_params() == found.get_params()
    assert np.array_equal(again.predict(texts), found.predict(texts))
    assert np.array_equal(again.predict_sets(texts), found.predict_sets(texts))
    assert found.predict(texts).any(axis=1).all()
    with pytest.raises(ConfigError, match="decision_coverage: not set, so no sets were made"):
        FITTED.predict_sets(texts)


def test_settings_of_rows_with_several_labels_are_refused_for_one() -> None:
    with pytest.raises(DataError, match=r"decision\.at_least_one: each row has one label; leave it out"):
        LinearClassifier(min_count=1, decision_at_least_one=True).fit(TEXTS, NAMES)
    never = LinearClassifier(min_count=1, decision_calibration="platt")
    with pytest.raises(DataError, match="calibration 'platt' is none of auto, auto_temperature, off, temperature"):
        never.fit(TEXTS, NAMES)
    assert not hasattr(never, "classifier_")  # told before training


def test_labels_to_explain_are_named_as_they_were_given() -> None:
    numbers = np.unique(NAMES, return_inverse=True)[1]
    found = LinearClassifier().fit(TEXTS, numbers).explain(TEXTS[0], labels=[1])
    assert [one.label for one in found] == ["1"]


def test_one_string_is_no_list_of_labels_and_one_list_no_pair() -> None:
    with pytest.raises(DataError, match=r"put it into a list: labels=\['music'\]"):
        FITTED.explain(TEXTS[0], labels="music")
    with pytest.raises(DataError, match=r"valid takes a pair, .*valid=\(texts, labels\)"):
        LinearClassifier().fit(TEXTS, NAMES, valid=(TEXTS,))  # type: ignore[arg-type]


def test_abstaining_is_asked_for() -> None:
    assert not FITTED.abstains(TEXTS).any()
    never = LinearClassifier(min_count=1, decision_most_wrong=0.01).fit(TEXTS, NAMES)  # six rows promise nothing
    assert never.abstains(TEXTS).all()


def test_a_saved_estimator_has_nothing_to_report(tmp_path: Path) -> None:
    from lasttoken.report.compose import write_report

    texts = ["good fine", "bad poor"] * 20
    LinearClassifier().fit(texts, ["yes", "no"] * 20).save(tmp_path / "saved")
    with pytest.raises(ArtifactError, match=r"saved: a saved estimator without test metrics"):
        write_report([tmp_path / "saved"], tmp_path / "report.html", metric="macro_f1")


def test_what_prediction_cuts_off_is_told(caplog: pytest.LogCaptureFixture) -> None:
    texts = ["good fine", "bad poor"] * 20
    fitted = ProbeClassifier("tiny", max_length=8).fit(texts, ["yes", "no"] * 20)
    caplog.clear()
    fitted.predict(["good " * 50])
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert caplog.messages[0].startswith("1 of 1 rows were truncated at 8 tokens")


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: EmbeddingClassifier(), True),
        (lambda: EmbeddingClassifier("tiny"), False),
        (lambda: EmbeddingClassifier().set_params(model="other"), False),
    ],
)
def test_that_the_tiny_model_stands_in_is_told(
    make: Callable[[], Any], told: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise DataError("stop")

    monkeypatch.delenv("LASTTOKEN_MODEL")
    monkeypatch.setattr("lasttoken.packages.installed_smollm2", lambda: None)
    monkeypatch.setattr("lasttoken.catalog.fit", stop)
    with pytest.raises(DataError, match="stop"):
        make().fit(TEXTS, ROWS.targets)
    assert ("no model is named: using tiny" in caplog.text) == told
