"""Ends the program where an environment defeats the time limit: it swallows what is raised, or blocks the signal."""

import logging
import os
import sys
import threading
import traceback
from typing import Protocol

from seqrl.errors import FaultyEnvError
from seqrl.machine import end_at_once, monotonic, sleep

log = logging.getLogger(__name__)

# After its limit a call gets this long to end, and with it everything that begins meanwhile, such as a close.
LAST_SECONDS = 5.0
# Bounds on the time between two looks; no more counts between two, also if the process is suspended.
OFTEN, SELDOM = 0.05, 1.0


class Watched(Protocol):
    """A guard: its limit, how often it counted anew, and what is wrong if it is never left."""

    seconds: float | None
    entered: int

    def fault(self) -> FaultyEnvError: ...


class Watchdog:
    """A thread that looks after the call in progress, of which there is one at a time, in the main thread."""

    def __init__(self) -> None:
        self._call: Watched | None = None
        self._thread: threading.Thread | None = None
        self._watches = True

    def leave_it(self) -> None:
        """Watch nothing in this process: another one does."""
        self._watches = False

    def watch(self, call: Watched) -> None:
        """Look after a call that begins."""
        self._call = call
        if self._thread is None and self._watches:
            self._thread = threading.Thread(target=self._look, name="watchdog", daemon=True)
            self._thread.start()

    def rest(self) -> None:
        """The call is over."""
        self._call = None

    def forget(self) -> None:
        """In a forked process: there the thread is missing, and the call is not its own."""
        self._call = self._thread = None

    def _look(self) -> None:
        before, waited, looked = None, 0.0, monotonic()
        while True:
            call = self._call
            limit = call.seconds if call is not None else None
            pause = SELDOM if limit is None else min(SELDOM, max(OFTEN, limit / 10))
            now = None if call is None or limit is None else (call, call.entered)
            passed, looked = monotonic() - looked, monotonic()
            waited = waited + min(passed, pause) if now is not None and now == before else 0.0
            if call is not None and limit is not None and waited > limit + LAST_SECONDS:
                stack = traceback.format_stack(sys._current_frames().get(threading.main_thread().ident or 0))
                log.error("defeats the time limit\n%s", "".join(stack))
                end_at_once(call.fault())
            before = now
            sleep(pause)


WATCHDOG = Watchdog()
os.register_at_fork(after_in_child=WATCHDOG.forget)
