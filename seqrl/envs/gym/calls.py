"""What every call into an environment passes: a time limit, and torch, signals and working folder as before it."""

# As the module signal has them, without a search for names that takes several microseconds.
import signal
import sys
import threading
from _signal import getsignal, setitimer  # type: ignore[import-not-found]
from _signal import signal as set_handler
from collections.abc import Callable
from contextlib import suppress
from os import chdir, getcwd
from types import TracebackType
from typing import Any

import torch

from seqrl.machine import OwnHandler, is_from_signal

# A limit is counted in this many parts: while a process is suspended, as by Ctrl-Z, no more than one of them passes.
PARTS = 10
# Time that whatever follows gets once a limit has passed, such as the close of the next environment.
GRACE_SECONDS = 1.0
# The run's own signals. Its handlers are put back after an environment has set others.
KEPT = (signal.SIGINT, signal.SIGTERM)
# As Python does it, but what it raises can be told from an environment that raises KeyboardInterrupt.
CTRL_C = OwnHandler(signal.default_int_handler)


def _folder() -> str | None:
    """The working folder; None if it is gone."""
    try:
        return getcwd()
    except OSError:
        return None


def _enter(folder: str | None) -> None:
    if folder is not None:
        with suppress(OSError):
            chdir(folder)


# Settings that hold for the whole process.
SETTINGS: tuple[tuple[Callable[[], Any], Callable[[Any], None]], ...] = (
    (torch.get_default_dtype, torch.set_default_dtype),
    (torch.get_num_threads, torch.set_num_threads),
    (torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms),
    (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    (_folder, _enter),
    (lambda: sys.stdout, lambda stream: setattr(sys, "stdout", stream)),
    (lambda: sys.stderr, lambda stream: setattr(sys, "stderr", stream)),
)


class OverdueError(Exception):
    """Something exceeded its time limit."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"it has not answered for {seconds:g} seconds, the limit set by env.timeout_seconds")


class LostError(Exception):
    """Environment `index` is lost; `why` gives the reason and the remedy."""

    def __init__(self, index: int, why: str) -> None:
        super().__init__(why)
        self.index = index


def is_own_fault(error: BaseException) -> bool:
    """Whether an environment raised it, or did not answer, and not a signal that the run heard meanwhile."""
    if isinstance(error, KeyboardInterrupt) and getsignal(signal.SIGINT) is signal.default_int_handler:
        return False
    return isinstance(error, OverdueError) or not is_from_signal(error)


class Guard:
    """A context for calls into environments. Within another use of the same guard it does nothing.

    seconds   limit, after which OverdueError is raised; None: no limit. It uses SIGALRM, so it works only in the main
              thread, and only once code outside Python returns

    Within it, torch computes gradients and has the settings that the environments left behind, and the working folder
    and what sys.stdout names are theirs; afterwards all are the run's again, and it hears its signals.
    """

    def __init__(self, seconds: float | None = None) -> None:
        self.seconds = seconds
        self._depth = 0
        self._learning = torch.inference_mode(False)
        # Settings that environments changed, by place in SETTINGS.
        self._changed: dict[int, Any] = {}

    def __enter__(self) -> None:
        self._depth += 1
        if self._depth > 1:
            return
        self._handlers = [getsignal(number) for number in KEPT]
        self._in_main_thread = threading.get_ident() == threading.main_thread().ident
        if self._handlers[0] is signal.default_int_handler and self._in_main_thread:
            set_handler(signal.SIGINT, CTRL_C)
        self._learning.__enter__()
        self._settings = [get() for get, _ in SETTINGS]
        for place, setting in self._changed.items():
            SETTINGS[place][1](setting)
        self._start_the_clock()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._depth -= 1
        if self._depth:
            return
        self._stop_the_clock()
        if self._changed or [get() for get, _ in SETTINGS] != self._settings:
            self._put_settings_back()
        self._learning.__exit__(kind, error, traceback)
        for number, handler in zip(KEPT, self._handlers, strict=True):
            # Other threads cannot set handlers, and nobody those that are not Python's.
            if self._in_main_thread and handler is not None and getsignal(number) is not handler:
                set_handler(number, handler)

    def _put_settings_back(self) -> None:
        for place, (get, put) in enumerate(SETTINGS):
            left, before = get(), self._settings[place]
            if left != before:
                self._changed[place] = left
                put(before)
            else:
                self._changed.pop(place, None)

    def _start_the_clock(self) -> None:
        self._parts_left = PARTS
        if self._has_clock:
            self._rings = set_handler(signal.SIGALRM, self._ring)
            part = self.seconds / PARTS  # type: ignore[operator]
            setitimer(signal.ITIMER_REAL, part, part)

    def _stop_the_clock(self) -> None:
        if self._has_clock:
            setitimer(signal.ITIMER_REAL, 0)
            set_handler(signal.SIGALRM, self._rings)

    @property
    def _has_clock(self) -> bool:
        return self.seconds is not None and self._in_main_thread

    def _ring(self, *_: Any) -> None:
        self._parts_left -= 1
        if self._parts_left <= 0:
            assert self.seconds is not None
            # Repeat, in case the environment swallows the first one.
            signal.setitimer(signal.ITIMER_REAL, min(GRACE_SECONDS, self.seconds), GRACE_SECONDS)
            raise OverdueError(self.seconds)
