"""journal.log of a search: every trial, in lines that only grow, shared by the processes of the search."""

import os
from pathlib import Path
from typing import Any

from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

from seqrl.errors import ConfigError
from seqrl.files import fault, json_of, read

# Far more than any search writes.
MOST_BYTES = 2**30


class Journal(JournalFileBackend):
    """Optuna's journal, which a process that is killed while it writes does not spoil: half a line is cut off.

    Raises ConfigError if it is damaged in another way.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        # The lock is a symbolic link to this path, which must be absolute to work from anywhere.
        self._mutex = JournalFileSymlinkLock(str(path))
        if os.path.lexists(path):
            if cut := self._cut():
                print(f"{path}: cut off half a line at its end, {cut} bytes of a process that was killed as it wrote")
            self._check()
        super().__init__(str(path), self._mutex)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        # What another process left meanwhile.
        self._cut()
        super().append_logs(logs)

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
                sound = isinstance(json_of(line)["op_code"], int)
            except (KeyError, TypeError, ValueError):
                sound = False
            if not sound:
                before = f"keep what was before, head -n {number - 1}" if number > 1 else "remove it"
                raise ConfigError(
                    [f"study: {self._path} is damaged in line {number}. To go on, {before}, or choose another study=…"]
                )


def opened(path: Path) -> Journal:
    """The journal at a path, or a new one. Raises ConfigError if it cannot be read."""
    try:
        if os.path.lexists(path):
            # No link, no pipe.
            read(path, MOST_BYTES)
        return Journal(path)
    except OSError as error:
        raise ConfigError([f"study: {path} {fault(error)}. Choose another study=…"]) from error
