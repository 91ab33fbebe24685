"""Notes and progress of a command on stderr: a progress bar on a terminal, occasional plain lines elsewhere.

A slow stage is announced within two seconds, even if it reports no progress until it ends.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

from lasttoken.journal import LOGGER
from lasttoken.wording import duration

if TYPE_CHECKING:
    from lasttoken.journal import Journal

EVERY = 15.0  # seconds between progress lines without a terminal
SOON = 1.0  # seconds until a stage without output is announced
TICK = 0.5  # seconds between checks whether a line is due


def say(sentence: str) -> None:
    """Print one line on stderr. A full disk does not stop the command."""
    try:
        print(sentence, file=sys.stderr, flush=True)
    except BrokenPipeError:
        raise
    except OSError:
        return


@dataclass
class Stage:
    """The latest progress report of a task."""

    name: str  # of the journal, shown as prefix
    what: str  # the task; after a comma what changes during it, such as a score
    done: int
    total: int  # 0: not known
    began: float  # clock time at which `first` steps were done
    first: int
    entered: float  # clock time at which the task was last entered
    told: bool = False  # whether a line was printed since `entered`

    @property
    def title(self) -> str:
        """The task's name."""
        return f"{self.name}: {self.what.split(',')[0]}"

    def line(self, now: float) -> str:
        """One line: the task, how much is done, and the time left; the time spent if that is unknown."""
        spent, made, left = now - self.began, self.done - self.first, self.total - self.done
        words = f"{self.name}: {self.what}"
        words += f", {self.done:,} of {self.total:,}" if self.total else f", {self.done:,}" if self.done else ""
        if self.total and made and left:
            return f"{words}, about {rough(spent / made * left)} left"
        return f"{words}, {rough(spent)} so far" if spent >= EVERY else words


class Screen:
    """Context manager that shows the journals of one command, and what the package logs.

    loud: False in all processes but the first. clock: returns seconds.
    """

    def __init__(self, *, loud: bool = True, clock: Callable[[], float] = time.monotonic):
        self.loud, self.clock = loud, clock
        self.bar: Any = None
        self.tasks: dict[str, Any] = {}  # title -> task of the bar
        self.stages: dict[str, Stage] = {}  # title -> its latest report
        self.stage: Stage | None = None
        self.last = clock()  # of the latest line
        self.lock = threading.RLock()
        self.over = threading.Event()
        self.watch = threading.Thread(target=self.look, daemon=True)
        self.logged = Logged(self)
        self.level = LOGGER.level

    def __enter__(self) -> Screen:
        if not self.loud:
            return self
        self.level = LOGGER.level
        LOGGER.addHandler(self.logged)
        LOGGER.setLevel(logging.INFO)
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self.bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self.bar.start()
        else:
            self.watch.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.over.set()
        LOGGER.removeHandler(self.logged)
        LOGGER.setLevel(self.level)
        if self.bar is not None:
            self.bar.stop()
        elif self.watch.is_alive():
            self.watch.join()

    def journal(self, name: str) -> Journal:
        """A journal whose notes and progress are shown here, prefixed with `name`."""
        from lasttoken.journal import Journal

        return Journal(
            tell=lambda sentence: self.note(f"{name}: {sentence}"), progress=lambda *seen: self.progress(name, *seen)
        )

    def note(self, sentence: str) -> None:
        """Show one line."""
        if not self.loud:
            return
        with self.lock:
            if self.bar is None:
                say(sentence)
            else:
                self.bar.console.print(sentence, markup=False, highlight=False, soft_wrap=True)

    def progress(self, name: str, what: str, done: int, total: int) -> None:
        """Show that `done` of `total` steps are done, with the time left on a plain stream. total 0: unknown.

        A plain stream gets a line at most every EVERY seconds, and one whenever `what` changes after its comma (a new
        validation score). A task that is entered again, as training after validation, keeps its start time.
        """
        if not self.loud:
            return
        with self.lock:
            now, known = self.clock(), self.stages.get(f"{name}: {what.split(',')[0]}")
            stage = Stage(name, what, done, total, now, done, now)
            again = known is not None and known is self.stage and known.done == done
            # it continues, maybe with another estimate of what it comes to
            alike = known is not None and (known.total == total or (known is self.stage and known.total > 0))
            if known is not None and alike and (again or 0 < done >= known.done):
                stage.began, stage.first = known.began, known.first
                if known is self.stage:
                    stage.entered, stage.told = known.entered, known.told
            self.stage = self.stages[stage.title] = stage
            if self.bar is not None:
                self.move_bar(stage)
            elif known is not None and done and (done < total or not total):
                self.tell_now_and_then(now, news=what != known.what)

    def tell_now_and_then(self, now: float, *, news: bool) -> None:
        """Print the stage's line if there is news, or if nothing was printed for EVERY seconds."""
        if news or self.quiet(now) >= EVERY:
            self.tell(now)

    def quiet(self, now: float) -> float:
        """Seconds since the latest line, or since the stage was entered."""
        assert self.stage is not None
        return now - max(self.last, self.stage.entered)

    def move_bar(self, stage: Stage) -> None:
        """Show this stage's bar, and no other."""
        for title, task in self.tasks.items():
            self.bar.update(task, visible=title == stage.title)
        if stage.title not in self.tasks:
            self.tasks[stage.title] = self.bar.add_task(stage.title, total=stage.total or None)
        task = self.tasks[stage.title]
        if stage.done == stage.first:
            self.bar.reset(task)
        self.bar.update(
            task, completed=stage.done, total=stage.total or None, description=f"{stage.name}: {stage.what}"
        )

    def tell(self, now: float) -> None:
        """Print the stage's line."""
        assert self.stage is not None
        say(self.stage.line(now))
        self.last, self.stage.told = now, True

    def tick(self) -> None:
        """Print the stage's line if it is due: after EVERY seconds without output, or SOON after the stage began."""
        with self.lock:
            stage, now = self.stage, self.clock()
            if stage is None or (stage.total and stage.done >= stage.total):
                return
            if self.quiet(now) >= EVERY or (not stage.told and now - stage.entered >= SOON):
                self.tell(now)

    def look(self) -> None:
        """Tick until the command is over."""
        with suppress(BrokenPipeError):  # the main thread meets the same error and ends the command
            while not self.over.wait(TICK):
                self.tick()


class Logged(logging.Handler):
    """A logging handler that shows the package's log records as notes."""

    def __init__(self, screen: Screen):
        super().__init__(logging.INFO)
        self.screen = screen

    def emit(self, record: logging.LogRecord) -> None:
        self.screen.note(record.getMessage())


def rough(seconds: float) -> str:
    """A duration in whole seconds: 45 s, 12 min 40 s."""
    return f"{seconds:.0f} s" if seconds < 100 else duration(seconds)
