"""Signals that ask a run to stop, handled between two iterations."""

import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any, Self

from seqrl.errors import StoppedError
from seqrl.machine import hear, monotonic

HEARD = (signal.SIGINT, signal.SIGTERM)
# `timeout` sends a signal to the process and at once again to its group: that is one request.
ONE_REQUEST_SECONDS = 0.5
STOPPING = b"\nseqrl: stopping as soon as all is saved; Ctrl-C again ends it at once\n"


def say_stopping(number: int) -> None:
    """Tell who pressed Ctrl-C at a terminal, and would press it again. Past the streams, which this may interrupt."""
    if number == signal.SIGINT and os.isatty(2):
        with suppress(OSError):
            os.write(2, STOPPING)


class Stop:
    """While it is a context, the first SIGINT or SIGTERM is noted and the second ends the process at once.

    What another rank has heard is noted, too, and is no first one here: each may get its own, one after another.
    In a process forked from this one they do what they do by default. Python hands signals to its main thread alone: in
    another one, only `others` can ask.

    others   what else may ask for it: returns a signal, or None; None: nothing
    """

    def __init__(self, others: Callable[[], signal.Signals | None] | None = None) -> None:
        self._others = others
        self._wanted: signal.Signals | None = None
        # When this process heard the first one.
        self._heard_at: float | None = None
        self._before: dict[signal.Signals, Any] = {}

    @property
    def wanted(self) -> signal.Signals | None:
        """The signal that asks for it, or None."""
        return self._wanted or (self._others() if self._others else None)

    def ask(self, number: int) -> bool:
        """Heed the signal that some rank has heard, if it is not 0; whether there is one."""
        if number and self._wanted is None:
            self._wanted = signal.Signals(number)
        return number != 0

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: hear(number, self._hear) for number in HEARD}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def error(self, advice: str) -> StoppedError:
        """What ends the run, with the exit code that shells expect of a signal. `advice` says how to go on."""
        assert self.wanted is not None
        return StoppedError(f"stopped by {self.wanted.name}. {advice}".rstrip(), 128 + self.wanted)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self._heard_at is None:
            self._wanted, self._heard_at = self._wanted or signal.Signals(number), monotonic()
            # Of several runs at once, the command says it.
            if self._others is None:
                say_stopping(number)
        elif monotonic() - self._heard_at > ONE_REQUEST_SECONDS:
            os._exit(128 + number)
