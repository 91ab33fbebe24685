"""Contextual calibration: what a text without content is said to be is taken out, stored, and loaded again."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tiny import dataset

from lasttoken.config import Instruction
from lasttoken.journal import Journal
from lasttoken.methods import instruction
from lasttoken.methods.instruction import WITHOUT_CONTENT, InstructionModel, without_prior


@pytest.fixture(scope="module")
def fit(folder: Callable[..., Path]) -> Callable[..., InstructionModel]:
    """fit(contextual=...) -> a model that answers untrained."""

    def make(**settings: object) -> InstructionModel:
        config = Instruction(model=str(folder("llama")), train_model=False, **settings)  # type: ignore[arg-type]
        rows = dataset(12)
        return instruction.fit(config, rows, rows, seed=0, device="cpu", journal=Journal())

    return make


def test_a_text_without_content_favours_no_label(fit: Callable[..., InstructionModel], tmp_path: Path) -> None:
    plain, calibrated = fit(), fit(contextual=True)
    assert plain.prior is None
    assert calibrated.prior is not None
    said = plain.predict_proba(WITHOUT_CONTENT)
    np.testing.assert_allclose(calibrated.prior, said.mean(axis=0), rtol=1e-9)
    texts = dataset(6).texts
    expected = plain.predict_proba(texts) / calibrated.prior
    np.testing.assert_allclose(
        calibrated.predict_proba(texts), expected / expected.sum(axis=1, keepdims=True), rtol=1e-9
    )
    calibrated.save(tmp_path)
    again = instruction.load(tmp_path, device="cpu")
    np.testing.assert_array_equal(again.predict_proba(texts), calibrated.predict_proba(texts))


def test_the_prior_itself_becomes_even() -> None:
    prior = np.array([0.7, 0.2, 0.1])
    np.testing.assert_allclose(without_prior(prior[None], prior, multi=False), np.full((1, 3), 1 / 3))
    np.testing.assert_allclose(without_prior(prior[None], prior, multi=True), np.full((1, 3), 0.5))
    certain = without_prior(np.array([[1.0, 0.0, 0.0]]), np.array([0.0, 0.5, 0.5]), multi=False)
    assert certain.tolist() == [[1.0, 0.0, 0.0]]
