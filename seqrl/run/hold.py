"""A run folder belongs to one run at a time, whichever machine it runs on."""

import fcntl
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from seqrl.errors import ConfigError, TakenError
from seqrl.files import fault, is_still, regular, regular_only, remedy
from seqrl.machine import keep, let_go, sleep

log = logging.getLogger(__name__)

# There while a run goes on. One that is killed leaves it, without a lock.
LOCK = ".seqrl-lock"


class Hold:
    """A run folder that this process alone has, until it lets go of it or ends, however it ends.

    Both the folder and a file in it are locked: most file systems of networks tell no other machine of a folder's lock.

    Raises TakenError if another process has it, ConfigError if nobody could be kept from it.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOCK
        self._file: int | None = None
        # The system lets go of both when the process ends.
        self.folder = keep(os.open(folder, os.O_RDONLY))
        self._mark = _mark_of_folder(self.folder)
        try:
            with _refusing(folder):
                of_folder, of_file = _lock(self.folder), self._lock_file()
                if of_folder and of_file:
                    raise of_folder
        except BaseException:
            self.let_go()
            raise
        if of_file:
            log.warning(
                "%s is kept for this run on this machine alone: its file system has no locks of files (%s). "
                "Do not go on with the run on another machine meanwhile.",
                folder,
                fault(of_file),
            )

    def let_go(self) -> None:
        if self._file is not None:
            with suppress(OSError):
                if is_still(self._file, self._path) and _signed(self._file, self._mark):
                    self._path.unlink()
            let_go(self._file)
        let_go(self.folder)

    def _lock_file(self) -> OSError | None:
        """Why the file cannot be locked; None if it is."""
        while True:
            file = keep(regular_only(str(self._path), os.O_RDWR | os.O_CREAT))
            try:
                if _is_of_another(file, self._mark):
                    self._path.unlink(missing_ok=True)
                # Whoever had it may have removed it before it could be locked.
                elif (unable := _lock(file)) or is_still(file, self._path):
                    _signed(file, self._mark)
                    self._file = file
                    return unable
            finally:
                if self._file != file:
                    let_go(file)


def is_held(folder: Path) -> bool:
    """Whether a run goes on there."""
    here = os.open(folder, os.O_RDONLY)
    try:
        if _is_locked(here):
            return True
        # Where it cannot be read, nor can the run.
        with suppress(OSError), regular(folder / LOCK) as file:
            return not _is_of_another(file.fileno(), _mark_of_folder(here)) and _is_locked(file.fileno())
    finally:
        os.close(here)
    return False


def open_lock(path: Path) -> IO[bytes]:
    """A file that is only locked, open; one that came with a copy of its folder, as of hard links, is replaced.

    Raises OSError if it is no regular file.
    """
    mark = _mark_of_folder(path.parent)
    file = open(path, "a+b", opener=regular_only)  # noqa: SIM115  # the caller closes it
    if _is_of_another(file.fileno(), mark):
        file.close()
        _remove_lock_of_another(path, mark)
        file = open(path, "a+b", opener=regular_only)  # noqa: SIM115
    _signed(file.fileno(), mark)
    return file


def _remove_lock_of_another(path: Path, mark: bytes) -> None:
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        # Alone: what another process has put in its place must stay. A run holds its folder as long as it goes on.
        with suppress(BlockingIOError):
            _lock(folder)
        with open(path, "a+b", opener=regular_only) as file:
            if _is_of_another(file.fileno(), mark):
                path.unlink()
    finally:
        os.close(folder)


# What a lock says: the number of its folder's inode. A copy of the folder, which may be one of hard links, has another.
LOCK_MARK = re.compile(rb"[0-9]{1,20}\n")


def _mark_of_folder(folder: Path | int) -> bytes:
    """What a lock in a folder, or in one that is open, says."""
    return b"%d\n" % os.stat(folder).st_ino


def _signed(lock: int, mark: bytes) -> bool:
    """Have a lock that is open say that it is this folder's; return False for another's, and for what is no lock."""
    says = os.pread(lock, 32, 0)
    is_own = not says or (bool(LOCK_MARK.fullmatch(says)) and not _is_of_another(lock, mark))
    if is_own and says != mark:
        with suppress(OSError):
            os.ftruncate(lock, 0)
            os.write(lock, mark)
    return is_own


def _is_of_another(lock: int, mark: bytes) -> bool:
    """Whether a lock came with hard links that were made of another folder, where somebody may have it.

    A file with one name is in one folder, whatever it says: some file systems give folders other numbers on another
    machine, or when they are mounted again.
    """
    says = os.pread(lock, 32, 0)
    return os.fstat(lock).st_nlink > 1 and says != mark and bool(LOCK_MARK.fullmatch(says))


def _is_locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        # A file system without locks.
        return False
    return False


def _lock(descriptor: int) -> OSError | None:
    """Lock it; return why its file system cannot. Raises BlockingIOError if another process has locked it."""
    for _ in range(10):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return None
        except BlockingIOError:
            # Who only looks whether a run goes on holds the lock for a moment.
            sleep(0.05)
        except OSError as error:
            return error
    raise BlockingIOError


@contextmanager
def _refusing(folder: Path) -> Iterator[None]:
    try:
        yield
    except BlockingIOError:
        raise TakenError([f"run folder: {folder} is in use by a run that is still running."]) from None
    except OSError as error:
        if error.filename is None:
            why = f"its file system has no locks ({fault(error)}). Choose a folder on another disk with hydra.run.dir=…"
        elif os.path.lexists(error.filename):
            why = f"{LOCK} in it cannot be opened: {fault(error)}. Remove it, if no run goes on there."
        else:
            why = f"{LOCK} cannot be written there: {fault(error)}. {remedy(error)}"
        raise ConfigError([f"run folder: {folder} cannot be kept for one run alone: {why}"]) from error
