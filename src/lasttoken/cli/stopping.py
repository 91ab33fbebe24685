"""Ctrl-C and SIGTERM while a command trains: a training ends between two updates, with a checkpoint; all else at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from lasttoken.errors import Stopped

if TYPE_CHECKING:
    from lasttoken.train.outcome import Stop

KINDS = (signal.SIGINT, signal.SIGTERM)
NOTHING = "nothing half-written is left"


@contextmanager
def stopping(kept: Callable[[], str] = lambda: NOTHING) -> Iterator[Stop]:
    """Within the block signals are as said above; a second one ends a training at once, too.

    kept: what is said of what the command leaves.
    """
    from lasttoken.train.outcome import Stop

    stop = Stop()

    def asked(number: int, _: Any) -> None:
        if stop.deferred and stop.signal is None:
            stop.signal = number
        elif number == signal.SIGINT:
            raise KeyboardInterrupt
        else:
            raise Stopped(number)

    if threading.current_thread() is not threading.main_thread():  # tests
        yield stop
        return
    before = {kind: signal.signal(kind, asked) for kind in KINDS if signal.getsignal(kind) != signal.SIG_IGN}
    try:
        yield stop
    except KeyboardInterrupt as end:
        raise Stopped(signal.SIGINT, f"stopped by Ctrl-C; {kept()}") from end
    except Stopped as end:
        end.told = end.told or f"stopped by {signal.Signals(end.number).name}; {kept()}"
        raise
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
