"""Time limits for environments that do not answer."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn


class OverdueError(Exception):
    """Something exceeded its time limit."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"it has not answered for {seconds:g} seconds, the limit set by env.timeout_seconds")


class LostError(Exception):
    """Environment `index` is lost; `why` gives the reason and the remedy."""

    def __init__(self, index: int, why: str) -> None:
        super().__init__(why)
        self.index = index


@contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """Raise OverdueError inside a block that takes longer. None: no limit.

    Uses SIGALRM, so it works only in the main thread, and only once code outside Python returns.
    """
    if seconds is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(*_: Any) -> NoReturn:
        raise OverdueError(seconds)

    before = signal.signal(signal.SIGALRM, ring)
    # Repeat, in case the block swallows the first one.
    signal.setitimer(signal.ITIMER_REAL, seconds, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
