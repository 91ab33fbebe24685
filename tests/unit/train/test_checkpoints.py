"""Checkpoints: two are kept and verified, a damaged one is passed over, and a disk that is full costs no training."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lasttoken.errors import ArtifactError, Stopped
from lasttoken.journal import Journal
from lasttoken.record import atomic
from lasttoken.record.folder import checkpoints_of, updates_in
from lasttoken.train import checkpoints
from lasttoken.train.checkpoints import Checkpoints
from lasttoken.train.outcome import Stop
from lasttoken.train.state import TrainState


def trained(updates: int) -> TrainState:
    """The state of a linear layer after so many updates."""
    torch.manual_seed(0)
    layer = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1)
    for _ in range(updates):
        layer(torch.ones(1, 3)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    state = TrainState(update=updates)
    state.attach([layer], optimizer)
    return state


def keeper(tmp_path: Path, **options: Any) -> Checkpoints:
    options = {"every": 0.0, "journal": Journal(tell=lambda _: None)} | options
    return Checkpoints(tmp_path / "run", {"config.toml": "seed = 1\n"}, **options)


def names(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in checkpoints_of(tmp_path / "run").iterdir())


def test_two_are_kept_and_the_newest_is_read(tmp_path: Path) -> None:
    own = keeper(tmp_path)
    for updates in (1, 2, 3):
        assert not own.after(trained(updates))
    assert names(tmp_path) == ["config.toml", "update-000000002", "update-000000003"]
    found = own.read()
    assert found is not None
    assert found.update == 3
    assert all(torch.equal(a, b) for a, b in zip(found.weights, trained(3).weights, strict=True))
    own.remove()
    assert own.read() is None
    assert not checkpoints_of(tmp_path / "run").exists()


@pytest.mark.parametrize("file", ["state.safetensors", "state.json", "manifest.json"])
def test_a_damaged_one_is_passed_over(tmp_path: Path, file: str) -> None:
    own = keeper(tmp_path)
    for updates in (1, 2):
        own.after(trained(updates))
    place = updates_in(own.folder)[-1] / file
    content = bytearray(place.read_bytes())
    content[len(content) // 2] ^= 1
    place.write_bytes(content)
    found = own.read()
    assert found is not None
    assert found.update == 1
    assert own.journal.notes == [f"{place.parent}: damaged; the checkpoint before it is used"]


def test_without_a_whole_one_training_begins_anew(tmp_path: Path) -> None:
    own = keeper(tmp_path)
    own.after(trained(1))
    (updates_in(own.folder)[0] / "state.json").unlink()
    assert own.read() is None


def test_an_unfinished_one_is_not_seen(tmp_path: Path) -> None:
    own = keeper(tmp_path)
    own.after(trained(1))
    (own.folder / ".update-000000002.1-aa.part").mkdir()
    (own.folder / "update-000000003").mkdir()  # no manifest
    found = own.read()
    assert found is not None
    assert found.update == 1


def test_a_process_that_is_killed_inside_a_write_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = keeper(tmp_path)
    own.after(trained(1))

    def killed(self: TrainState, folder: Path) -> None:
        (folder / "state.safetensors").write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr(TrainState, "write", killed)
        if not (child := os.fork()):
            own.after(TrainState(update=2))
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert any(name.endswith(".part") for name in names(tmp_path))
    found = own.read()
    assert found is not None
    assert found.update == 1
    own.after(trained(2))
    assert [path.name for path in updates_in(own.folder)] == ["update-000000001", "update-000000002"]


def test_they_take_two_percent_of_the_time_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: now[0])

    def slow(self: Checkpoints, state: TrainState) -> None:
        now[0] += 3.0
        written.append(state.update)

    monkeypatch.setattr(Checkpoints, "write_now", slow)
    own, written = keeper(tmp_path, every=10.0), list[int]()
    with own.watching():
        for update in range(1, 400):
            now[0] += 1.0
            own.after(TrainState(update=update))
    assert written == [10, 160, 310]  # the first after ten seconds, then 3 s of every 150


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), OSError(errno.EROFS, "Read-only file system")]
)
def test_a_full_disk_is_told_and_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    own = keeper(tmp_path)
    own.after(trained(1))

    def full(self: TrainState, folder: Path) -> None:
        (folder / "state.safetensors").write_bytes(b"half")
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(TrainState, "write", full)
        assert not own.after(trained(2))
    assert own.journal.notes == [f"the checkpoint after update 2 could not be written ({error}); training goes on"]
    assert names(tmp_path) == ["config.toml", "update-000000001"]
    found = own.read()
    assert found is not None
    assert found.update == 1


def test_a_mount_that_vanished_is_told(tmp_path: Path) -> None:
    place = tmp_path / "mount"
    place.write_text("no folder any more")
    own = Checkpoints(place / "run", {}, every=0.0, journal=Journal(tell=lambda _: None))
    assert not own.after(trained(1))
    assert "could not be written" in own.journal.notes[0]


def test_signals_write_a_checkpoint_and_end_the_training(tmp_path: Path) -> None:
    stop = Stop()
    own = keeper(tmp_path, every=1e9, stop=stop)
    assert not own.after(trained(1))
    assert not checkpoints_of(tmp_path / "run").exists()
    stop.signal = signal.SIGINT
    assert own.after(trained(2))
    stop.signal = signal.SIGTERM
    with pytest.raises(Stopped, match="after update 3") as ended:
        own.after(trained(3))
    assert ended.value.number == signal.SIGTERM
    assert [path.name for path in updates_in(own.folder)] == ["update-000000002", "update-000000003"]


def test_a_new_name_outlives_a_loss_of_power(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are flushed before the rename, the folder that gets the name after it."""
    done: list[str] = []
    real, rename = os.fsync, Path.rename

    def fsync(descriptor: int) -> None:
        done.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "rename", lambda self, target: done.append("rename") or rename(self, target))
    keeper(tmp_path).after(trained(1))
    at = done.index("rename")
    assert {"state.safetensors", "state.json", "manifest.json", "update-000000001"} <= set(done[:at])
    assert done[at + 1] == "run.training"
    assert atomic.flush.__doc__


def test_an_optimiser_that_casts_what_it_loads_is_refused() -> None:
    layer = nn.Linear(3, 2)
    state = trained(2)
    saved = TrainState(update=2, weights=state.copied(), optimiser=state.running.state_dict())  # type: ignore[union-attr]
    saved.optimiser["state"][0]["exp_avg"] = torch.zeros(2, 3, dtype=torch.uint8)  # as of 8 bits
    with pytest.raises(ArtifactError, match=r"exp_avg was torch.uint8 and is torch.float32 after loading"):
        saved.attach([layer], torch.optim.AdamW(layer.parameters()))


def test_a_damaged_one_is_written_again_and_is_none_of_the_two(tmp_path: Path) -> None:
    own = keeper(tmp_path)
    for updates in (1, 2):
        own.after(trained(updates))
    (updates_in(own.folder)[-1] / "state.json").write_text("{")
    assert own.read() is not None
    assert [path.name for path in updates_in(own.folder)] == ["update-000000001"]
    own.after(trained(2))
    found = own.read()
    assert found is not None
    assert found.update == 2


def test_a_checkpoint_that_does_not_verify_costs_no_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = keeper(tmp_path)
    own.after(trained(1))

    def damaged(path: Path) -> None:
        raise ArtifactError(f"{path}: damaged")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "verify_files", damaged)
        assert not own.after(trained(2))
    assert "could not be written" in own.journal.notes[0]
    assert [path.name for path in updates_in(own.folder)] == ["update-000000001"]


def test_what_says_which_training_it_is_belongs_to_the_checkpoints(tmp_path: Path) -> None:
    other = Checkpoints(tmp_path / "run", {"config.toml": "seed = 2\n"}, every=0.0)
    folder = checkpoints_of(tmp_path / "run")
    folder.mkdir()
    (folder / "config.toml").write_text("seed = 1\n")  # of a command that was killed before its first checkpoint
    other.after(trained(1))
    assert (folder / "config.toml").read_text() == "seed = 2\n"


@pytest.mark.parametrize(("kind", "error"), [(signal.SIGTERM, Stopped), (signal.SIGINT, KeyboardInterrupt)])
def test_a_signal_after_the_last_update_is_not_lost(tmp_path: Path, kind: int, error: type[BaseException]) -> None:
    own = keeper(tmp_path, stop=Stop())
    with pytest.raises(error), own.watching():
        own.stop.signal = kind
