"""Untrained instruction models: contextual calibration and probabilities to a tolerance, as told, stored and loaded."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny import dataset

from lasttoken.config.methods import Instruction
from lasttoken.config.parse import parse
from lasttoken.data.dataset import Dataset
from lasttoken.errors import ConfigError, ModelError
from lasttoken.journal import Journal
from lasttoken.labels import LabelSpace
from lasttoken.methods import instruction
from lasttoken.methods.instruction import WITHOUT_CONTENT, InstructionModel, room_for_text, without_prior


@pytest.fixture(scope="module")
def fit(folder: Callable[..., Path]) -> Callable[..., InstructionModel]:
    """fit(contextual=...) -> a model that answers untrained."""

    def make(**settings: object) -> InstructionModel:
        config = Instruction(model=str(folder("llama")), train_model=False, **settings)  # type: ignore[arg-type]
        rows = dataset(12)
        return instruction.fit(config, rows, rows, seed=0, device="cpu", journal=Journal()).classifier

    return make


def test_a_text_without_content_favours_no_label(fit: Callable[..., InstructionModel], tmp_path: Path) -> None:
    plain, calibrated = fit(), fit(contextual=True)
    assert plain.prior is None
    assert calibrated.prior is not None
    said = plain.predict_proba(WITHOUT_CONTENT).probs
    np.testing.assert_allclose(calibrated.prior, said.mean(axis=0), rtol=1e-9)
    texts = dataset(6).texts
    expected = plain.predict_proba(texts).probs / calibrated.prior
    np.testing.assert_allclose(
        calibrated.predict_proba(texts).probs, expected / expected.sum(axis=1, keepdims=True), rtol=1e-9
    )
    calibrated.save(tmp_path)
    again = instruction.load(tmp_path, device="cpu")
    np.testing.assert_array_equal(again.predict_proba(texts).probs, calibrated.predict_proba(texts).probs)


def test_the_prior_itself_becomes_even() -> None:
    prior = np.array([0.7, 0.2, 0.1])
    np.testing.assert_allclose(without_prior(prior[None], prior, multi=False), np.full((1, 3), 1 / 3))
    np.testing.assert_allclose(without_prior(prior[None], prior, multi=True), np.full((1, 3), 0.5))
    certain = without_prior(np.array([[1.0, 0.0, 0.0]]), np.array([0.0, 0.5, 0.5]), multi=False)
    assert certain.tolist() == [[1.0, 0.0, 0.0]]


def test_a_tolerance_is_kept_and_holds(fit: Callable[..., InstructionModel], tmp_path: Path) -> None:
    exact, near = fit(), fit(tolerance=0.05)
    texts = dataset(6).texts
    said = near.predict_proba(texts).probs
    assert 0 < np.abs(said - exact.predict_proba(texts).probs).max() <= 0.05
    near.save(tmp_path)
    np.testing.assert_array_equal(instruction.load(tmp_path, device="cpu").predict_proba(texts).probs, said)


def test_a_tolerance_is_refused_where_it_would_do_nothing(folder: Callable[..., Path]) -> None:
    with pytest.raises(ConfigError, match="tolerance is for decode = score"):
        parse(Instruction, {"tolerance": 0.01, "decode": "generate"})
    with pytest.raises(ConfigError, match="tolerance does not hold once a prior is taken out"):
        parse(Instruction, {"tolerance": 0.01, "contextual": True})
    with pytest.raises(ConfigError, match="contextual is for decode = score"):
        parse(Instruction, {"contextual": True, "decode": "generate"})
    config = Instruction(model=str(folder("llama")), train_model=False, tolerance=0.01)
    rows = dataset(12, multi=True)
    with pytest.raises(ConfigError, match="with several labels per row every label is scored exactly"):
        instruction.fit(config, rows, rows, seed=0, device="cpu", journal=Journal())


def test_answers_that_cost_several_times_their_texts_are_told(folder: Callable[..., Path]) -> None:
    def notes(rows: Dataset, **settings: float) -> str:
        journal = Journal()
        config = Instruction(model=str(folder("llama")), train_model=False, **settings)  # type: ignore[arg-type]
        instruction.fit(config, rows, rows, seed=0, device="cpu", journal=journal)
        return "\n".join(journal.notes)

    few = dataset(40)
    names = tuple(f"{i} {text[:30]}" for i, text in enumerate(few.texts))
    many = replace(few, labels=LabelSpace(names), targets=np.arange(40))
    assert "labels takes" not in notes(few)
    assert "scoring all 40 labels takes" in notes(many)
    assert "labels takes" not in notes(many, tolerance=0.01)


def test_a_prompt_that_fills_the_window_is_not_helped_by_max_length(fit: Callable[..., InstructionModel]) -> None:
    model = fit()
    long = replace(model.prompt, header=np.arange(model.backbone.window))
    with pytest.raises(
        ModelError, match=r"of 256 tokens and leave none for the text; shorten the prompt or the answers"
    ):
        room_for_text(model.backbone, long, model.config)
    with pytest.raises(ModelError, match=r"of 100 tokens and leave none for the text; raise max_length, shorten"):
        room_for_text(model.backbone, long, model.config.model_copy(update={"max_length": 100}))
