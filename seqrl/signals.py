"""What asks a run to stop: signals, heard at the next edge between two iterations, and the command that began it."""

import ctypes
import fcntl
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, NoReturn, Self

from seqrl.errors import StoppedError

HEARD = (signal.SIGINT, signal.SIGTERM)
# Of Linux's prctl.
PR_SET_PDEATHSIG = 1


def end_with_parent(number: int) -> None:
    """Have this process sent a signal when its parent ends, however that ends; only Linux can."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)


class Stop:
    """While it is a context, the first SIGINT or SIGTERM is noted and the second ends the process at once.

    crew   whose word is heard too
    """

    def __init__(self, crew: "Crew | None" = None) -> None:
        self._crew = crew
        self._heard: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    @property
    def wanted(self) -> signal.Signals | None:
        """The signal that asks for it, or None."""
        return self._heard or (self._crew.told if self._crew else None)

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._hear) for number in HEARD}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def error(self, how_to_go_on: str, saved: bool) -> StoppedError:
        """What ends the run, with the exit code that shells expect of a signal."""
        assert self.wanted is not None
        how = "" if saved else "from an older checkpoint, as this could not be saved, "
        return StoppedError(f"stopped by {self.wanted.name}. Go on {how}with {how_to_go_on}", 128 + self.wanted)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self._heard is not None:
            os._exit(128 + number)
        self._heard = signal.Signals(number)


class Crew:
    """Runs that one command began in other processes: it tells them to stop, and knows when they have.

    They share a small file. The command writes the number of a signal into it; each run holds a lock on it while it is
    at work, which the system takes back however its process ends.
    """

    VARIABLE = "SEQRL_CREW"

    def __init__(self, command: int, path: Path) -> None:
        self._command, self._path = command, path

    @classmethod
    def gathered(cls) -> Self:
        """The crew of this process: of those that it starts from now on."""
        handle, name = tempfile.mkstemp(prefix="seqrl-crew-")
        os.close(handle)
        os.environ[cls.VARIABLE] = f"{os.getpid()}:{name}"
        return cls(os.getpid(), Path(name))

    @classmethod
    def joined(cls) -> Self:
        """The crew that this process was started for."""
        command, _, path = os.environ[cls.VARIABLE].partition(":")
        return cls(int(command), Path(path))

    def stop(self, number: int) -> None:
        """Tell all to stop, and wait until nobody is at work."""
        self._path.write_text(str(number))
        with self._path.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX)

    def disperse(self) -> None:
        """Take the file away."""
        self._path.unlink(missing_ok=True)

    @property
    def abandoned(self) -> bool:
        """Whether the command has gone."""
        return os.getppid() != self._command

    @property
    def told(self) -> signal.Signals | None:
        """The signal that the command passed on; SIGHUP if it has gone."""
        try:
            word = self._path.read_text()
        except FileNotFoundError:
            return signal.SIGHUP
        if self.abandoned:
            return signal.SIGHUP
        return signal.Signals(int(word)) if word else None

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """What the command waits for; a signal to this process raises StoppedError."""
        process = os.getpid()

        def end(number: int, frame: FrameType | None) -> NoReturn:
            if os.getpid() != process:
                # A process of an environment has nothing to save.
                os._exit(128 + number)
            raise StoppedError(f"stopped by {signal.Signals(number).name}.", 128 + number)

        with self._path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            for number in HEARD:
                signal.signal(number, end)
            try:
                yield
            finally:
                # Between two runs the command's word is enough; a signal would tear down what hands out the next.
                for number in HEARD:
                    signal.signal(number, lambda *_: None)
