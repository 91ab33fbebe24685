"""A run from elsewhere cannot be used damaged, cannot run code, and cannot reach out of its folder.

First, two hundred changes at random places of every file are each named. Then the same with a manifest that agrees with them,
as somebody who means harm would write it: the run loads or is refused, with a sentence and nothing else.
"""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from tiny import dataset

from lasttoken import catalog
from lasttoken.config.methods import Embedding, Linear
from lasttoken.config.settings import Lora, Training
from lasttoken.errors import ArtifactError, UserError
from lasttoken.evaluation.policy import Policy, write_policy
from lasttoken.predictor import Predictor
from lasttoken.record.folder import MANIFEST, digest, read_json, seal, verify

TIMES = 200


@pytest.fixture(scope="module")
def run(folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """run(method) -> a saved model with its policy, sealed."""
    made: dict[str, Path] = {}

    def get(method: str) -> Path:
        if method not in made:
            configs = {
                "linear": lambda: Linear(),
                "embedding": lambda: Embedding(
                    model=str(folder("llama")), lora=Lora(r=2), train=Training(epochs=1.0, batch=8)
                ),
            }
            made[method] = tmp_path_factory.mktemp("untrusted") / method
            made[method].mkdir()
            data = dataset(30), dataset(9, seed=1)
            catalog.fit(configs[method](), *data, device="cpu").classifier.save(made[method])
            write_policy(Policy(), made[method])
            seal(made[method])
        return made[method]

    return get


def changes(data: bytes, times: int, seed: int) -> Iterator[bytes]:
    """Copies of `data`, each with one change at a random place: a flipped bit, bytes replaced, left out or put in, an end cut off."""
    rng = np.random.default_rng(seed)
    for number in range(times):
        changed, at = bytearray(data), int(rng.integers(len(data)))
        kind = number % 5
        if kind == 0:
            changed[at] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            changed[at : at + 8] = rng.bytes(8)
        elif kind == 2:
            del changed[at : at + int(rng.integers(1, 9))]
        elif kind == 3:
            changed[at:at] = rng.bytes(int(rng.integers(1, 9)))
        else:
            del changed[at:]
        yield bytes(changed)


@pytest.mark.parametrize("method", ["linear", "embedding"])
def test_no_damaged_file_is_used(method: str, run: Callable[[str], Path], tmp_path: Path) -> None:
    """Each of two hundred changes of every file, the manifest too, is found and the file named."""
    shutil.copytree(run(method), tmp_path / "run")
    files = [path for path in sorted((tmp_path / "run").rglob("*")) if path.is_file()]
    assert len(files) >= 4
    for number, path in enumerate(files):
        whole, same = path.read_bytes(), 0
        for changed in changes(whole, TIMES, number):
            path.write_bytes(changed)
            if path.name == MANIFEST and meaning(changed) == meaning(whole):
                same += 1  # white space, or a key that nobody reads
                continue
            with pytest.raises(ArtifactError, match=r"damaged|missing|written in format|leads out"):
                verify(tmp_path / "run")
        assert same < TIMES // 4
        path.write_bytes(whole)
    verify(tmp_path / "run")


def meaning(data: bytes) -> object:
    """What a manifest says; None where it is no JSON."""
    try:
        found = json.loads(data)
        return {key: found[key] for key in ("format", "sha256")}
    except (ValueError, KeyError, TypeError):
        return None


@pytest.mark.slow
@pytest.mark.parametrize("method", ["linear", "embedding"])
def test_what_agrees_with_its_manifest_loads_or_is_refused_in_a_sentence(
    method: str, run: Callable[[str], Path], tmp_path: Path
) -> None:
    """No traceback, whatever the files hold: config, labels, vocabulary, policy, safetensors headers, adapter."""
    shutil.copytree(run(method), tmp_path / "run")
    refused = 0
    for number, path in enumerate(
        p for p in sorted((tmp_path / "run").rglob("*")) if p.is_file() and p.name != MANIFEST
    ):
        whole = path.read_bytes()
        head = whole[:2000]  # where headers are
        for changed in changes(head, TIMES // 4 if method == "embedding" else TIMES, 100 + number):
            path.write_bytes(changed + whole[2000:])
            (tmp_path / "run" / MANIFEST).unlink()
            seal(tmp_path / "run")
            try:
                Predictor.load(tmp_path / "run", device="cpu")(["guitar"])
            except UserError:
                refused += 1
        path.write_bytes(whole)
    assert refused > TIMES


@pytest.mark.parametrize("name", ["../policy.json", "/etc/hostname", "adapter/../../policy.json"])
def test_a_manifest_does_not_lead_out(name: str, run: Callable[[str], Path], tmp_path: Path) -> None:
    shutil.copytree(run("linear"), tmp_path / "run")
    shutil.copy(tmp_path / "run" / "policy.json", tmp_path)
    manifest = read_json(tmp_path / "run" / MANIFEST)
    manifest["sha256"][name] = digest(tmp_path / "policy.json")
    (tmp_path / "run" / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match="leads out of its folder"):
        verify(tmp_path / "run")


def test_nothing_in_a_run_is_unpickled(run: Callable[[str], Path], tmp_path: Path) -> None:
    """Weights that are a pickle are read as damaged safetensors; what is in them does not happen."""

    class Harm:
        def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
            return Path.touch, (tmp_path / "harm",)  # type: ignore[return-value]

    for name in ("head.safetensors", "adapter/lora.safetensors"):
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        shutil.copytree(run("embedding"), tmp_path / "run")
        (tmp_path / "run" / name).write_bytes(pickle.dumps(Harm()))
        (tmp_path / "run" / MANIFEST).unlink()
        seal(tmp_path / "run")
        with pytest.raises(ArtifactError):
            Predictor.load(tmp_path / "run", device="cpu")
        assert not (tmp_path / "harm").exists()
