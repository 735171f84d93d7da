"""Time limits for environments that do not answer."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn


class OverdueError(Exception):
    """Something took longer than it may."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"it has not answered for {seconds:g} seconds, the limit of env.timeout_seconds")


class LostError(Exception):
    """Environment `index` is not to be had any more; why, and what to do."""

    def __init__(self, index: int, why: str) -> None:
        super().__init__(why)
        self.index = index


@contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """Raise OverdueError in the middle of a block that takes longer. None: it may take for ever.

    Works by an alarm, which only the main thread can hear, and which waits for what runs outside Python to return.
    """
    if seconds is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(*_: Any) -> NoReturn:
        raise OverdueError(seconds)

    before = signal.signal(signal.SIGALRM, ring)
    # Again and again, lest the block swallows it.
    signal.setitimer(signal.ITIMER_REAL, seconds, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
