"""lasttoken export: every form answers as the run does, in its own runtime, or is refused with what to set instead."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import ModelCard
from safetensors.numpy import load_file, save_file
from serving import serving

from lasttoken.errors import ArtifactError
from lasttoken.predictor import Predictor
from lasttoken.record.folder import MANIFEST, seal

TEXTS = ["Compute the mean of an array.", "Open a window on the screen.", "", "a tensor " * 80]
ALL = ("--to", "hf", "--to", "onnx", "--to", "openvino", "--precision", "float32")


def rewritten(run: Path, folder: Path, change: Callable[[Path], object]) -> Path:
    """A copy of a run with something changed and sealed again."""
    shutil.copytree(run, folder)
    change(folder)
    (folder / MANIFEST).unlink()
    seal(folder)
    return folder


def code_of(card: Path, folder: Path) -> dict[str, Any]:
    """What the first block of Python on a card leaves behind, run with FOLDER as it is."""
    blocks = re.findall(r"```python\n(.*?)```", card.read_text(encoding="utf-8"), re.S)
    names: dict[str, Any] = {"FOLDER": str(folder)}
    exec(blocks[0], names)
    return names


@pytest.fixture(scope="session")
def exported(runs: dict[str, Path], command: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedding run in three runtimes."""
    folder = tmp_path_factory.mktemp("exports") / "embedding"
    said = command("export", runs["embedding"], *ALL, "-o", folder)
    assert said.code == 0, said.err
    assert [line.split()[0] for line in said.out.splitlines()] == ["hf", "onnx-float32", "openvino-float32"]
    assert said.err.splitlines()[-1].startswith(f"next: lasttoken predict {folder} NEW.csv")
    return folder


FIRST = """
import sys, threading
from pathlib import Path
import numpy as np
from lasttoken.runtime.sessions import open_session
session = open_session("openvino", Path(sys.argv[1]), "float32")
start, ids = threading.Barrier(4), np.ones((1, 8), dtype=np.int64)
def first():
    start.wait()
    print(session(ids, ids).shape)
threads = [threading.Thread(target=first) for _ in range(4)]
[one.start() for one in threads]
[one.join() for one in threads]
"""


def test_threads_that_come_first_to_openvino_are_answered(exported: Path) -> None:
    """Its Python layer hangs where it is set up by two threads at once."""
    (graph,) = exported.rglob("*.xml")
    for _ in range(3):
        words = [sys.executable, "-c", FIRST, str(graph)]
        done = subprocess.run(words, check=True, timeout=60, capture_output=True, text=True)
        assert done.stdout.count("(1, 4)") == 4


@pytest.mark.parametrize("form", ["hf", "onnx-float32", "openvino-float32", "auto"])
def test_every_form_answers_as_the_run(form: str, exported: Path, runs: dict[str, Path]) -> None:
    wanted, found = Predictor.load(runs["embedding"])(TEXTS), Predictor.load(exported, backend=form)(TEXTS)
    assert found.labels == wanted.labels
    assert np.abs(found.probs - wanted.probs).max() < 1e-4  # sums of float32 in another order
    assert found.lost.tolist() == wanted.lost.tolist()


def test_transformers_reads_it_by_itself(exported: Path, runs: dict[str, Path], capsys: pytest.CaptureFixture) -> None:
    """The code on the card, as it stands there."""
    names = code_of(exported / "README.md", exported)
    texts = [text for text in TEXTS if text]
    found = names["classify"](texts, truncation=True)
    wanted = Predictor.load(runs["embedding"])(texts)
    assert [one["label"] for one in found] == wanted.labels
    assert [one["score"] for one in found] == pytest.approx(wanted.probs.max(axis=1), abs=1e-4)
    assert "some text" not in capsys.readouterr().out


def test_its_card_is_one_that_the_hub_reads(exported: Path) -> None:
    card = ModelCard.load(exported / "README.md")
    assert card.data.pipeline_tag == "text-classification"
    names = [one.metric_name for one in card.data.eval_results]
    assert names == ["accuracy", "micro_f1", "macro_f1", "ece"]
    for word in ("Checked in each runtime", "lasttoken predict FOLDER", "| onnx-float32 | 100.0% |"):
        assert word in card.text


def test_nothing_of_the_machine_or_of_the_rows_is_in_it(
    exported: Path, runs: dict[str, Path], table: Path, folder: Callable[..., Path]
) -> None:
    """Not in binary files either: torch notes the lines of its code in a graph, with their paths."""
    places = (table.parent, folder("llama"), runs["embedding"], Path.home(), Path(__file__).parents[2])
    for path in exported.rglob("*"):
        if path.is_file():
            found = [place for place in places if str(place).encode() + b"/" in path.read_bytes() + b"/"]
            assert not found, path
    assert not list(exported.rglob("*.parquet"))
    assert json.loads((exported / "export.json").read_text())["model"] == folder("llama").name


def test_every_block_of_the_card_runs_and_answers_alike(exported: Path, runs: dict[str, Path]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (exported / "README.md").read_text(encoding="utf-8"), re.S)
    assert len(blocks) == 3
    wanted = Predictor.load(runs["embedding"])(["some text"]).probs[0]
    for code in blocks:
        names: dict[str, Any] = {"FOLDER": str(exported)}
        exec(code, names)
        if "probs" in names:
            assert names["probs"][0] == pytest.approx(wanted, abs=1e-4)


@pytest.mark.slow
def test_all_forms_at_once_with_several_labels_and_thresholds(
    rows: list[dict[str, str]],
    write: Callable[..., Path],
    folder: Callable[..., Path],
    command: Callable[..., Any],
    tmp_path: Path,
) -> None:
    """int8 and bfloat16 too; parts, verify and serve take the folder."""
    labelled = [
        {"text": r["text"], "label": f"{r['label']};{'long' if len(r['text']) > 60 else 'short'}"} for r in rows
    ]
    table = write(tmp_path / "rows.csv", labelled * 4)
    options = (
        "--method",
        "embedding",
        "--model",
        folder("llama"),
        "--exportable",
        "--separator",
        ";",
        "--device",
        "cpu",
    )
    settings = ("method.train.epochs=6", "method.train.lr=0.01", "method.max_length=48", "data.valid_share=0.3")
    settings += ("decision.thresholds=cost", "decision.missed_cost=2")  # those for an F1 may end as one half
    words = [word for setting in settings for word in ("--set", setting)]
    said = command("train", table, *options, *words, "--out", tmp_path / "run")
    assert said.code == 0, said.err
    targets = [word for target in ("hf", "peft", "onnx", "openvino") for word in ("--to", target)]
    said = command("export", tmp_path / "run", *targets, "--agreement", "0.8", "-o", tmp_path / "out")
    assert said.code == 0, said.err
    names = [line.split()[0] for line in said.out.splitlines()]
    graphs = ["openvino-float32", "openvino-bfloat16", "openvino-int8", "openvino-int8-dynamic"]
    assert names == ["hf", "peft", "onnx-float32", "onnx-int8", *graphs]
    run = Predictor.load(tmp_path / "run")
    assert run.policy.calibration.method in ("none", "temperature")
    assert run.policy.rule.thresholds == pytest.approx(1 / 3)
    texts = [row["text"] for row in rows[:30]]
    wanted = run(texts)
    for name in names:
        found = Predictor.load(tmp_path / "out", backend=name)(texts)
        close = 0.3 if "int8" in name else 0.05 if "bfloat16" in name else 1e-3
        assert np.abs(found.probs - wanted.probs).max() < close, name
        assert (found.decisions == wanted.decisions).all(axis=1).mean() > 0.7
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "A label is given from its own threshold on: {" in card
    verified = command("verify", tmp_path / "out", "--run", tmp_path / "run", "--json")
    assert verified.code == 0, verified.err
    assert set(json.loads(verified.out)["same"]) == set(names)
    other = command("verify", tmp_path / "out", "--run", tmp_path / "out")
    assert "not the run that" in other.err
    parts = tmp_path / "parts"
    assert command("predict", tmp_path / "out", table, "-o", f"{parts}/", "--backend", "onnx-float32").code == 0
    again = command("predict", tmp_path / "out", table, "-o", f"{parts}/", "--backend", "hf")
    assert again.code == 2
    assert "backend" in again.err


def test_a_server_takes_it(exported: Path) -> None:
    with serving(exported, "--backend", "openvino-float32") as server:
        status, answer, _ = server.ask("/predict", {"texts": ["Compute the mean."]})
    assert status == 200
    wanted = Predictor.load(exported)(["Compute the mean."])
    assert answer["answers"][0]["label"] == wanted.labels[0]


def test_peft_reads_the_adapter_with_its_head(
    runs: dict[str, Path], command: Callable[..., Any], tmp_path: Path
) -> None:
    said = command("export", runs["embedding"], "--to", "peft", "-o", tmp_path / "peft")
    assert said.code == 0, said.err
    texts = [text for text in TEXTS if text]
    found = code_of(tmp_path / "peft" / "README.md", tmp_path / "peft")["classify"](texts, truncation=True)
    wanted = Predictor.load(runs["embedding"])(texts)
    assert [one["label"] for one in found] == wanted.labels
    assert Predictor.load(tmp_path / "peft")(texts).labels == wanted.labels


def test_a_probe_becomes_a_graph(runs: dict[str, Path], command: Callable[..., Any], tmp_path: Path) -> None:
    said = command(
        "export", runs["probe"], "--to", "onnx", "--precision", "float32", "-o", tmp_path / "probe", "--json"
    )
    assert said.code == 0, said.err
    facts = json.loads(said.out)
    assert facts["forms"][0]["check"]["agreement"] == 1
    wanted, found = Predictor.load(runs["probe"])(TEXTS), Predictor.load(tmp_path / "probe")(TEXTS)
    assert np.abs(found.probs - wanted.probs).max() < 1e-4


def test_predict_takes_it_in_the_place_of_a_run(
    exported: Path, runs: dict[str, Path], table: Path, command: Callable[..., Any], tmp_path: Path
) -> None:
    outs = {}
    for name, folder in (("run", runs["embedding"]), ("export", exported)):
        said = command("predict", folder, table, "-o", tmp_path / f"{name}.csv")
        assert said.code == 0, said.err
        outs[name] = [line.split(",")[-2] for line in (tmp_path / f"{name}.csv").read_text().splitlines()]
    assert outs["run"] == outs["export"]


def test_a_head_with_a_bias_is_refitted(runs: dict[str, Path], command: Callable[..., Any], tmp_path: Path) -> None:
    """As runs of before have one; transformers would leave it out without a word."""

    def with_bias(folder: Path) -> None:
        path = folder / "head.safetensors"
        save_file({**load_file(path), "layers.bias": np.array([1.5, -2, 0.5, 0], dtype=np.float32)}, path)
        settings = json.loads((folder / "method.json").read_text())
        del settings["config"]["head_bias"]
        (folder / "method.json").write_text(json.dumps(settings))

    older = rewritten(runs["embedding"], tmp_path / "older", with_bias)
    before = Predictor.load(runs["embedding"])(TEXTS).probs
    wanted = Predictor.load(older)(TEXTS).probs
    assert np.abs(wanted - before).max() > 0.1  # it matters
    options = ("--to", "hf", "-o", tmp_path / "out", "--agreement", "0")
    said = command("export", older, *options)
    assert said.code == 0, said.err
    assert "export: head: its bias is brought into its weights" in said.err
    found = Predictor.load(tmp_path / "out")(TEXTS[:2]).probs
    effect = np.abs(wanted[:2] - before[:2]).max()
    assert np.abs(found - wanted[:2]).max() < 0.5 * effect  # as far as vectors of a toy have a direction in common


@pytest.mark.parametrize(
    ("run", "options", "told"),
    [
        ("linear", ("--to", "hf"), "linear: TF-IDF is no neural network to export"),
        ("linear", ("--to", "onnx"), "linear: TF-IDF is no neural network to export"),
        ("probe", ("--to", "hf"), "method: probe has no layout of transformers"),
        ("embedding", ("--to", "onxx"), "--to: 'onxx' is not among hf, peft, onnx, openvino; did you mean 'onnx'?"),
        ("embedding", ("--to", "onnx", "--precision", "int4"), "--precision: 'int4' is not among bfloat16, float32"),
        (
            "embedding",
            ("--to", "onnx", "--precision", "bfloat16"),
            "--precision: onnx has float32, int8; name one of them too",
        ),
        ("no", ("--to", "hf"), "no: no such run"),
    ],
)
def test_what_cannot_be_exported(
    run: str, options: tuple[str, ...], told: str, runs: dict[str, Path], refused: Callable[..., str], tmp_path: Path
) -> None:
    assert told in refused("export", runs.get(run, run), *options, "-o", tmp_path / "out")


def test_settings_that_the_layout_lacks_are_told_at_once(
    runs: dict[str, Path], refused: Callable[..., str], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    def change(folder: Path) -> None:
        settings = json.loads((folder / "method.json").read_text())
        settings["config"] |= {"pooling": "mean", "suffix": "\nTopic:"}
        settings["config"]["long"]["keep"] = "head_tail"
        (folder / "method.json").write_text(json.dumps(settings))

    run = rewritten(runs["embedding"], tmp_path_factory.mktemp("other") / "run", change)
    lines = refused("export", run, "--to", "hf", "-o", tmp_path / "out").splitlines()
    assert lines == [
        "method.pooling: the layout reads the last token, here it is mean",
        "method.suffix: the layout reads the text alone",
        "method.long.keep: a tokenizer cuts one end of a text, here it is head_tail",
        "train with --exportable, or leave hf and peft out: --to onnx or openvino can",
    ]


def test_an_export_is_not_exported_nor_read_as_a_run(
    exported: Path, refused: Callable[..., str], tmp_path: Path
) -> None:
    told = refused("export", exported, "--to", "hf", "-o", tmp_path / "out")
    assert told == f"{exported} is an export already; name the run that it was made from"
    assert "which has auto, hf, onnx-float32" in refused(
        "predict", exported, "--text-is", "x", "--backend", "onnx-int8"
    )
    assert "is an export, whose form says how it computes" in refused(
        "predict", exported, "--text-is", "x", "--precision", "bfloat16"
    )


def test_a_run_has_no_backend(runs: dict[str, Path], refused: Callable[..., str]) -> None:
    told = refused("predict", runs["linear"], "--text-is", "x", "--backend", "onnx-int8")
    assert told.endswith("is a run, not an export; leave it out, or `lasttoken export` it first")


def test_a_runtime_that_is_not_installed_is_named(
    runs: dict[str, Path], refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lasttoken.runtime import sessions

    monkeypatch.setattr(sessions.importlib.util, "find_spec", lambda name: None if name == "nncf" else object())
    told = refused("export", runs["embedding"], "--to", "openvino", "-o", tmp_path / "out")
    assert told == "--to openvino needs the package nncf: pip install 'lasttoken[export]'"


@pytest.mark.parametrize("file", ["../model.onnx", "/etc/passwd"])
def test_a_folder_cannot_name_files_outside_of_it(file: str, exported: Path, tmp_path: Path) -> None:
    def change(folder: Path) -> None:
        facts = json.loads((folder / "export.json").read_text())
        facts["forms"] = [form | {"file": file} for form in facts["forms"] if form["runtime"] == "onnx"]
        (folder / "export.json").write_text(json.dumps(facts))

    with pytest.raises(ArtifactError, match="leads out of its folder"):
        Predictor.load(rewritten(exported, tmp_path / "out", change))


def test_a_damaged_file_is_named(exported: Path, tmp_path: Path) -> None:
    shutil.copytree(exported, tmp_path / "out")
    path = tmp_path / "out" / "onnx" / "model.onnx"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match=r"onnx/model\.onnx: damaged"):
        Predictor.load(tmp_path / "out", backend="hf")


def test_an_exportable_run_is_one(
    table: Path, folder: Callable[..., Path], command: Callable[..., Any], refused: Callable[..., str], tmp_path: Path
) -> None:
    """With the settings that --exportable chooses; against others of the user's own it is refused before any work."""
    options = ("--method", "encoder", "--model", folder("bert"), "--exportable", "--device", "cpu")
    told = refused("train", table, *options, "--set", "method.pooling=mean", "--out", tmp_path / "no")
    assert (
        told
        == "--exportable: method.pooling: the layout reads the first token, here it is mean; leave one of the two out"
    )
    told = refused("train", table, *options, "--set", "decision.calibration=isotonic", "--out", tmp_path / "no")
    assert (
        told
        == "--exportable: decision.calibration: the layout has one temperature, here it is isotonic; leave one of the two out"
    )
    epochs = ("--set", "method.train.epochs=1", "--set", "method.max_length=48")
    assert command("train", table, *options, *epochs, "--out", tmp_path / "run").code == 0
    assert not (tmp_path / "run" / "encoder" / "config.json").exists()  # nothing that transformers would load wrongly
    said = command("export", tmp_path / "run", "--to", "hf", "-o", tmp_path / "out")
    assert said.code == 0, said.err
    wanted, found = (Predictor.load(tmp_path / name)(TEXTS[:2]).probs for name in ("run", "out"))
    assert np.abs(found - wanted).max() < 1e-3  # through a tanh that is nearly the identity


@pytest.mark.slow
def test_a_model_that_answers_in_words_keeps_its_prompt(
    table: Path, folder: Callable[..., Path], command: Callable[..., Any], tmp_path: Path
) -> None:
    options = ("--method", "instruction", "--model", folder("llama"), "--device", "cpu")
    epochs = ("--set", "method.train.epochs=1", "--set", "method.max_length=128")
    assert command("train", table, *options, *epochs, "--out", tmp_path / "run").code == 0
    said = command("export", tmp_path / "run", "--to", "hf", "-o", tmp_path / "out")
    assert said.code == 0, said.err
    wanted, found = (Predictor.load(tmp_path / name)(TEXTS[:3]).probs for name in ("run", "out"))
    assert np.abs(found - wanted).max() < 1e-4
    assert command("export", tmp_path / "run", "--to", "onnx", "-o", tmp_path / "no").code == 2


def test_an_encoder_that_the_layout_cannot_hold_is_refused_before_it_is_trained(
    table: Path, folder: Callable[..., Path], refused: Callable[..., str]
) -> None:
    told = refused(
        "train", table, "--method", "encoder", "--model", folder("modernbert"), "--exportable", "--out", "no"
    )
    assert "is of type modernbert, and hf takes bert, roberta, xlm-roberta, camembert (minilm is one)" in told
