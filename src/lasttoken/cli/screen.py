"""What a person sees while a verb works: notes as lines, progress as a bar on a terminal and as few plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

from lasttoken.journal import Journal

EVERY = 15.0  # seconds between two lines of progress where there is no terminal


def say(sentence: str) -> None:
    """One line of words, on stderr."""
    print(sentence, file=sys.stderr, flush=True)


class Screen:
    """A context that shows the journals of one verb. Silent in every process but the first."""

    def __init__(self, *, loud: bool = True):
        self.loud = loud
        self.bar: Any = None
        self.task: Any = None
        self.title = self.what = ""
        self.began = self.last = time.monotonic()

    def __enter__(self) -> Screen:
        if self.loud and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self.bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.stop()

    def journal(self, name: str) -> Journal:
        """A journal whose notes and progress are shown here, under the name of a method."""
        return Journal(
            tell=lambda sentence: self.note(f"{name}: {sentence}"), progress=lambda *seen: self.progress(name, *seen)
        )

    def note(self, sentence: str) -> None:
        """Show one line."""
        if not self.loud:
            return
        if self.bar is None:
            say(sentence)
        else:
            self.bar.console.print(sentence, markup=False, highlight=False, soft_wrap=True)

    def progress(self, name: str, what: str, done: int, total: int) -> None:
        """Show that `done` of `total` are done, and on a plain stream when the rest should be; total 0: nobody knows.

        A plain stream gets a line every EVERY seconds at most, and one whenever `what` says more than before behind its
        comma, which is how a validation score comes.
        """
        title = f"{name}: {what.split(',')[0]}"
        now = time.monotonic()
        if self.bar is not None:
            if title != self.title:
                if self.task is not None:
                    self.bar.remove_task(self.task)
                self.task = self.bar.add_task(title, total=total or None)
            self.bar.update(self.task, completed=done, total=total or None, description=f"{name}: {what}")
        elif self.loud:
            if title != self.title:
                self.began = self.last = now
            elif (now - self.last >= EVERY or what != self.what) and done > 0 and (done < total or not total):
                spent = now - self.began
                rest = f"of {total}, about {spent / done * (total - done):.0f} s left" if total else f"in {spent:.0f} s"
                say(f"{name}: {what}, {done} {rest}")
                self.last = now
        self.title, self.what = title, what
