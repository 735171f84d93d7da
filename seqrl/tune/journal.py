"""journal.log of a search: every trial, in lines that only grow, shared by the processes of the search."""

import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

from seqrl.errors import ConfigError, SeqrlError
from seqrl.files import fault, json_of, read
from seqrl.runs.manifest import is_number

# Far more than any search writes.
MOST_BYTES = 2**30
NUMBERS = ("param_value_internal", "intermediate_value", "step", "trial_id", "study_id", "state")


class Journal(JournalFileBackend):
    """Optuna's journal, which a process that is killed while it writes does not spoil: half a line is cut off.

    Raises ConfigError if it is damaged in another way, or if a line cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        # The line that was read last.
        self._line = 0
        # The lock is a symbolic link to this path, which must be absolute to work from anywhere.
        self._mutex = JournalFileSymlinkLock(str(path))
        if os.path.lexists(path):
            if cut := self._cut():
                print(f"{path}: cut off half a line at its end, {cut} bytes of a process that was killed as it wrote")
            self._check()
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
                    f"study: {self._path} cannot be written: {fault(error)}. Free some space, and continue with "
                    f"study={self._path.parent}"
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
        """Remove half a line at the end; return its bytes."""
        self._mutex.acquire()
        try:
            with self._path.open("r+b") as file:
                size = end = file.seek(0, os.SEEK_END)
                while end and (file.seek(end - 1), file.read(1))[1] != b"\n":
                    end -= 1
                if end < size:
                    file.truncate(end)
                return size - end
        finally:
            self._mutex.release()

    def _check(self) -> None:
        for number, line in enumerate(read(self._path, MOST_BYTES).decode(errors="replace").splitlines(), 1):
            try:
                sound = _is_sound(json_of(line))
            except (AttributeError, KeyError, TypeError, ValueError):
                sound = False
            if not sound:
                raise self._damage(number)

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
