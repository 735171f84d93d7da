"""Leaves the folder of a refused run as it was found."""

import logging
import os
from contextlib import suppress
from pathlib import Path

from seqrl.files import LogFile

# Folders that were there before Hydra made those of this process's runs.
_FOUND: set[Path] = set()


def forget_log(folder: Path) -> None:
    """Write no more into the log of a run, whose folder is left as it was; others may go on beside it."""
    for logger in (logging.getLogger(), logging.getLogger("seqrl")):
        logs = [it for it in logger.handlers if isinstance(it, LogFile)]
        for handler in [it for it in logs if os.path.dirname(it.baseFilename) == os.path.abspath(folder)]:
            logger.removeHandler(handler)
            handler.close()


def note_folder(folder: Path) -> None:
    """Remember how much of the path to a run folder is there before it is made."""
    _FOUND.update([folder.absolute(), *folder.absolute().parents])
    _FOUND.difference_update([it for it in _FOUND if not it.exists()])


def was_there(folder: Path) -> bool:
    """Whether a folder was there before it was made for this process's runs."""
    return folder.absolute() in _FOUND


def remove_if_empty(folder: Path) -> None:
    """Remove the folder of a refused run, and those above it in the working folder, if they were made for it alone."""
    with suppress(OSError):
        here, folder = Path.cwd(), folder.absolute()
        if any(folder.iterdir()):
            return
        forget_log(folder)
        for it in [folder, *folder.parents]:
            if was_there(it) or here.is_relative_to(it) or (it != folder and not it.is_relative_to(here)):
                return
            it.rmdir()
