"""Files that are whole at any time, and safe in a folder of somebody else: no link is followed, no name guessed."""

import errno
import os
import re
import secrets
import stat
from contextlib import suppress
from pathlib import Path
from typing import IO

# What an interrupted `write` leaves behind.
STRAY = re.compile(r"\.seqrl-[0-9a-f]{16}\.tmp")
# Far more than any text file that seqrl writes into a run folder.
TEXT_BYTES = 16 * 2**20


def write(path: Path, data: bytes) -> None:
    """Write `data` to `path`, completely or not at all, even if the machine crashes meanwhile.

    A link at `path` is replaced, never followed. Raises OSError with the path; a file that was there is then unchanged.
    """
    temporary = path.with_name(f".seqrl-{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "xb", opener=_without_links) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise OSError(error.errno, error.strerror, str(path)) from error


class Lines:
    """A text file that grows by whole lines.

    A line that cannot be written waits, and those after it behind it, until all can: on a full disk none is lost, and
    no half of one stays. Raises OSError if the file is a link.
    """

    # Of lines that wait.
    MOST = 100_000

    def __init__(self, path: Path) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self._file = os.open(path, flags, 0o666)
        self._size = os.fstat(self._file).st_size
        self._waiting: list[bytes] = []

    def add(self, line: str) -> None:
        """Add a line, which ends with a line break. Raises OSError if it has to wait."""
        self._waiting.append(line.encode())
        del self._waiting[: -self.MOST]
        self._write()

    def sync(self) -> None:
        """Wait until all lines are on the disk."""
        self._write()
        os.fsync(self._file)

    def close(self) -> None:
        try:
            self._write()
        finally:
            os.close(self._file)

    def _write(self) -> None:
        while self._waiting:
            line = self._waiting[0]
            try:
                if os.write(self._file, line) < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError:
                os.ftruncate(self._file, self._size)
                raise
            self._size += len(line)
            del self._waiting[0]


def read(path: Path, most: int = TEXT_BYTES) -> bytes:
    """All bytes of a regular file of at most so many. Raises OSError for anything else, such as a link or a pipe."""
    with open(path, "rb", opener=lambda name, flags: _without_links(name, flags | os.O_NONBLOCK)) as file:
        _insist_on_regular(file, path)
        if os.fstat(file.fileno()).st_size > most:
            raise OSError(errno.EFBIG, f"is larger than {most / 1e6:,.0f} MB", str(path))
        return file.read(most)


def read_text(path: Path, most: int = TEXT_BYTES) -> str:
    """The same as text; what is not UTF-8 is replaced."""
    return read(path, most).decode(errors="replace")


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_strays(folder: Path) -> None:
    """Remove what interrupted writes left in a folder, and nothing else."""
    for entry in folder.iterdir():
        if STRAY.fullmatch(entry.name):
            entry.unlink(missing_ok=True)


def links(folder: Path) -> list[Path]:
    """Links among the entries of a folder."""
    return [entry for entry in sorted(folder.iterdir()) if entry.is_symlink()] if folder.is_dir() else []


def _without_links(name: str, flags: int) -> int:
    return os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)


def _insist_on_regular(file: IO[bytes], path: Path) -> None:
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "is no regular file", str(path))
