"""journal.log of a search: every trial, in lines that only grow, shared by the processes of the search."""

import errno
import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from shlex import quote
from typing import Any

from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

from seqrl.errors import ConfigError, SeqrlError
from seqrl.files import LINE_BYTES, cure, detach, fault, json_of, read
from seqrl.machine import monotonic, sleep
from seqrl.run.manifest import is_number
from seqrl.text import say

# Far more than any search writes.
MOST_BYTES = 2**30
# How Optuna begins each.
BEGINNING = b'{"op_code":'
# What a file system says that has no symbolic links, as exFAT.
NO_LINKS = (errno.ENOSYS, errno.EPERM, errno.EOPNOTSUPP)
# Limit for a lock that is not this journal's to go: on another machine the same journal may have another path.
LOCK_SECONDS = 5.0
NUMBERS = ("param_value_internal", "intermediate_value", "step", "trial_id", "study_id", "state")


class Lock(JournalFileSymlinkLock):
    """Optuna's lock, a link to the journal; anything else is left alone.

    Optuna would remove whatever has its name, or wait for ever for a link to nothing.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._path, self._link = path, path.with_name(f"{path.name}.lock")

    def acquire(self) -> bool:
        deadline = monotonic() + LOCK_SECONDS
        while os.path.lexists(self._link) and not self._is_own():
            if monotonic() > deadline:
                raise ConfigError(
                    [f"study: {self._link} is not the lock of this journal. Remove it, or choose another study=…"]
                )
            sleep(0.05)
        try:
            return bool(super().acquire())
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            where = (
                f"{self._path.parent} is on a disk that has no links ({fault(error)}), with which a search locks its"
            )
            raise ConfigError([f"study: {where} journal. Choose another disk, with study=…"]) from error

    def _is_own(self) -> bool:
        with suppress(OSError):
            return self._link.is_symlink() and self._link.samefile(self._path)
        return False


class Journal(JournalFileBackend):
    """Optuna's journal, which a process that is killed while it writes does not spoil: half a line is cut off.

    Raises ConfigError if it is damaged in another way, or if a line cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        # The line that was read last.
        self._line = 0
        # The lock is a symbolic link to this path, which must be absolute to work from anywhere.
        self._mutex = Lock(path)
        if os.path.lexists(path):
            self._check()
            if cut := self._cut():
                say(f"{path}: cut off half a line at its end, {cut} bytes of a process that was killed as it wrote")
        super().__init__(str(path), self._mutex)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        try:
            # What another process left meanwhile.
            self._cut()
            super().append_logs(logs)
        except OSError as error:
            with suppress(OSError):
                self._cut()
            raise ConfigError(
                [
                    f"study: {self._path} cannot be written: {fault(error)}. {cure(error)}, and continue with "
                    f"study={quote(str(self._path.parent))}"
                ]
            ) from error

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        for self._line, log in enumerate(super().read_logs(log_number_from), log_number_from + 1):
            yield log

    @contextmanager
    def damage_named(self) -> Iterator[None]:
        """Raise ConfigError with its line if Optuna makes no sense of what it reads."""
        try:
            yield
        except SeqrlError:
            raise
        except Exception as error:
            raise self._damage(self._line) from error

    def _cut(self) -> int:
        """Remove half a line at the end, of a file that has no other name; return its bytes."""
        self._mutex.acquire()
        try:
            detach(self._path)
            with self._path.open("r+b") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - LINE_BYTES))
                half = file.read().rpartition(b"\n")[2]
                if not half or len(half) >= LINE_BYTES:
                    return 0
                file.truncate(size - len(half))
                return len(half)
        finally:
            self._mutex.release()

    def _check(self) -> None:
        """Raise ConfigError if a line, or half a line at the end, is not one of a search."""
        *lines, half = read(self._path, MOST_BYTES).split(b"\n")
        for number, line in enumerate(lines, 1):
            try:
                sound = _is_sound(json_of(line.decode()))
            except (AttributeError, KeyError, TypeError, ValueError):
                sound = False
            if not sound:
                raise self._damage(number)
        if not half.startswith(BEGINNING[: len(half)]) or len(half) >= LINE_BYTES:
            raise self._damage(len(lines) + 1)

    def _damage(self, number: int) -> ConfigError:
        before = f"keep what was before, head -n {number - 1}" if number > 1 else "remove it"
        return ConfigError(
            [f"study: {self._path} is damaged in line {number}. To go on, {before}, or choose another study=…"]
        )


def _is_sound(log: dict[str, Any]) -> bool:
    """Whether a line has an operation, and numbers where Optuna takes for a number whatever is there."""
    numbers = [*(log.get("values") or []), *(log[name] for name in NUMBERS if name in log)]
    return isinstance(log["op_code"], int) and all(map(is_number, numbers))


def opened(path: Path) -> Journal:
    """The journal at a path, or a new one. Raises ConfigError if it cannot be read."""
    try:
        if os.path.lexists(path):
            # No link, no pipe.
            read(path, MOST_BYTES)
        return Journal(path)
    except OSError as error:
        raise ConfigError([f"study: {path} {fault(error)}. Choose another study=…"]) from error
