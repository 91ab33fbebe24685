"""lasttoken push: to a stand-in of the Hub, over HTTP, by the real command line in a process of its own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hub import standing_in

from lasttoken.predictor import Predictor

TOKEN = "hf_secret"


def environment(address: str, token: str, home: Path) -> dict[str, str]:
    """That of a process which takes `address` for the Hub."""
    kept = {name: value for name, value in os.environ.items() if name not in ("HF_HUB_OFFLINE", "HF_TOKEN")}
    return {**kept, "HF_ENDPOINT": address, "HF_TOKEN": token, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}


def test_a_run_arrives_as_an_export_that_predicts(
    runs: dict[str, Path], process: Callable[..., subprocess.CompletedProcess[bytes]], tmp_path: Path
) -> None:
    with standing_in(tmp_path / "hub", TOKEN) as hub:
        env = environment(hub.address, TOKEN, tmp_path / "home")
        for public in ((), ("--public",)):  # a second time into the same repository
            if public:
                (tmp_path / "hub" / "me" / "docs" / "old.safetensors").write_bytes(b"x")
            said = process("push", runs["embedding"], "--to", "me/docs", *public, env=env)
            assert said.returncode == 0, said.stderr.decode()
            assert said.stdout.decode().strip() == f"{hub.address}/me/docs"
        assert hub.asked == ["private", "public"]  # the Hub keeps what a repository is
    there = tmp_path / "hub" / "me" / "docs"
    assert not (there / "old.safetensors").exists()  # what an earlier export left there would be loaded with this one
    assert {path.suffix for path in there.rglob("*") if path.is_file()} == {".json", ".md", ".toml", ".safetensors"}
    texts = ["Compute the mean of an array.", "Open a window."]
    assert Predictor.load(there)(texts).labels == Predictor.load(runs["embedding"])(texts).labels


@pytest.mark.parametrize(
    ("token", "to", "told"),
    [
        ("wrong", "me/docs", "--to me/docs: the Hub answered 401 ("),
        (TOKEN, "me/docs/more", "--to: 'me/docs/more' is no name of the Hub, such as owner/name ("),
    ],
)
def test_what_the_hub_does_not_take(
    token: str,
    to: str,
    told: str,
    runs: dict[str, Path],
    process: Callable[..., subprocess.CompletedProcess[bytes]],
    tmp_path: Path,
) -> None:
    with standing_in(tmp_path / "hub", TOKEN) as hub:
        said = process("push", runs["embedding"], "--to", to, env=environment(hub.address, token, tmp_path / "home"))
    assert said.returncode == 2
    assert f"lasttoken: {told}" in said.stderr.decode()
    assert "Traceback" not in said.stderr.decode()


def test_a_hub_that_is_not_there(
    runs: dict[str, Path], process: Callable[..., subprocess.CompletedProcess[bytes]], tmp_path: Path
) -> None:
    env = environment("http://127.0.0.1:9", TOKEN, tmp_path / "home")
    said = process("push", runs["embedding"], "--to", "me/docs", env=env)
    assert said.returncode == 2
    assert "lasttoken: --to me/docs: the Hub cannot be reached" in said.stderr.decode()


def test_offline_nothing_is_sent(runs: dict[str, Path], refused: Callable[..., str]) -> None:
    told = refused("push", runs["embedding"], "--to", "me/docs")
    assert told == "--to: HF_HUB_OFFLINE is set, so nothing is sent; unset it and run again"
