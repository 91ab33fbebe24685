"""Checkpoints of a training beside its run folder: the last two, each read back before an older one goes.

RUN.training/ says which training they are of; RUN.training/update-N/ is a state of `TrainState.write` with a manifest.
A checkpoint is written beside, flushed with its folder, renamed and verified; then those before the last two go.
"""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError

from lasttoken.errors import ArtifactError, Stopped
from lasttoken.journal import Journal
from lasttoken.record.atomic import writing_folder
from lasttoken.record.folder import checkpoints_of, seal, updates_in, verify_files, write_text
from lasttoken.train.distributed import ALONE, World
from lasttoken.train.outcome import Stop
from lasttoken.train.state import TrainState
from lasttoken.wording import first_line

SHARE = 0.02  # of the time that writing checkpoints may take
KEPT = 2


@dataclass(eq=False)
class Checkpoints:
    """The checkpoints of one training."""

    run: Path  # the run folder to be
    about: Mapping[str, str]  # files that say which training it is: name -> text
    every: float = 60.0  # seconds from one to the next at least; 0: after every update
    stop: Stop = field(default_factory=Stop)
    world: World = ALONE
    journal: Journal = field(default_factory=Journal)
    cost: float = 0.0  # seconds that the last one took
    latest: float = field(default_factory=time.monotonic)  # when it was written, or training began

    @property
    def folder(self) -> Path:
        """Where they are."""
        return checkpoints_of(self.run)

    def read(self) -> TrainState | None:
        """The newest whole checkpoint; None without one. Damaged ones are removed."""
        for path in reversed(updates_in(self.folder)):
            try:
                verify_files(path)
                return TrainState.read(path)
            except ArtifactError:
                self.journal.note(f"{path}: damaged; the checkpoint before it is used")
                if self.world.rank == 0:
                    shutil.rmtree(path, ignore_errors=True)
        return None

    def after(self, state: TrainState) -> bool:
        """Write a checkpoint if it is time, or if a signal came. True after Ctrl-C: the training is to end here.

        Called after every update. Raises Stopped after SIGTERM. All processes decide the same.
        """
        late = time.monotonic() - self.latest >= max(self.every, self.cost / SHARE if self.every else 0.0)
        came = self.stop.signal  # read once: it may come on any line
        asked = torch.tensor(
            [late and self.world.rank == 0, came == signal.SIGINT, came is not None and came != signal.SIGINT]
        ).float()
        self.world.add([asked])
        late, ctrl_c, ended = (bool(value) for value in asked.tolist())
        if late or ctrl_c or ended:
            self.write(state)
        if ctrl_c:
            self.stop.signal = None  # it is answered; SIGTERM is by Stopped
        if ended:
            number = came or signal.SIGTERM  # another process got it
            raise Stopped(
                number,
                f"stopped by {signal.Signals(number).name} after update {state.update}, which {self.folder} holds; to go on "
                "give the same command again, `train` with --resume",
            )
        return ctrl_c

    def write(self, state: TrainState) -> None:
        """Write a checkpoint; a note where that fails, since the training and the checkpoint before go on."""
        began = time.monotonic()
        if self.world.rank == 0:
            try:
                self.write_now(state)
            except (OSError, SafetensorError, ArtifactError) as error:
                self.journal.note(
                    f"the checkpoint after update {state.update} could not be written ({first_line(error)}); training goes on"
                )
        self.latest = time.monotonic()
        self.cost = self.latest - began

    def write_now(self, state: TrainState) -> None:
        """Write a checkpoint, verify it, and remove those before the last two. Raises OSError or ArtifactError."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if not updates_in(self.folder):  # files there may be of a training that was killed before its first
            for name, text in self.about.items():
                write_text(self.folder / name, text)
        path = self.folder / f"update-{state.update:09d}"
        if path.exists():  # written because it was time, and now a signal came
            return
        with writing_folder(path) as part:
            state.write(part)
            seal(part)
        try:
            verify_files(path)
        except ArtifactError:
            shutil.rmtree(path, ignore_errors=True)
            raise
        for old in updates_in(self.folder)[:-KEPT]:
            shutil.rmtree(old, ignore_errors=True)

    def remove(self) -> None:
        """Remove them all: the run is written."""
        if self.world.rank == 0:
            shutil.rmtree(self.folder, ignore_errors=True)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Within the block signals wait for the next update; one that came after the last is raised at its end."""
        self.stop.deferred = True
        self.latest = time.monotonic()
        try:
            yield
        finally:
            self.stop.deferred = False
        if self.stop.signal == signal.SIGINT:
            raise KeyboardInterrupt
        if self.stop.signal is not None:
            raise Stopped(self.stop.signal)
