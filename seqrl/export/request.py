"""What a command line of seqrl.export asks for."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from seqrl.config.schema import Rule, key
from seqrl.config.words import OfPolicy, read_for_policy

REPOSITORY = Rule(lambda x: re.fullmatch(r"[\w.-]+/[\w.-]+", x) is not None, "a repository, such as user/name")


@dataclass(frozen=True)
class Request(OfPolicy):
    """What a command line asks for, by key."""

    to: Path | None = key(
        None, "folder for the files; default: export in the run's folder", Rule(bool, "a folder"), example="<folder>"
    )
    hub: str | None = key(
        None, "also upload the files to this repository of the Hugging Face Hub", REPOSITORY, example="user/name"
    )

    @property
    def folder(self) -> Path:
        """Where the files go, as the user may name it."""
        return self.to or self.run / "export"


def requested(given: Sequence[str]) -> Request:
    """Read a command line.

    Raises ConfigError with all of its faults, CheckpointError if there is no latest run.
    """
    words = [word.lstrip("+") for word in given]
    values, _ = read_for_policy(Request, words, "seqrl.export", changes_env=False)
    return Request(**values)
