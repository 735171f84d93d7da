"""What a command line of seqrl.export asks for."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from seqrl.config.begun import named_run
from seqrl.config.schema import Rule, key, keys_of
from seqrl.config.words import read
from seqrl.errors import ConfigError
from seqrl.text import nearest

FOLDER = "the folder of a run, such as outputs/runs/<date>/<run>"
CHECKPOINT = Rule(
    lambda x: x in ("last", "best") or (not isinstance(x, str) and x >= 0), "last, best or a number of iterations"
)
REPOSITORY = Rule(lambda x: re.fullmatch(r"[\w.-]+/[\w.-]+", x) is not None, "a repository, such as user/name")


@dataclass(frozen=True)
class Request:
    """What a command line asks for, by key."""

    run: Path = key(
        None,
        "folder of the run, which holds its config.yaml; latest: the newest",
        Rule(bool, FOLDER),
        example="<folder>",
    )
    checkpoint: str | int = key(
        "last", "last, best, or the number of iterations after which it was saved: checkpoint=120", CHECKPOINT
    )
    to: Path | None = key(
        None, "folder for the files; default: export in the run's folder", Rule(bool, "a folder"), example="<folder>"
    )
    hub: str | None = key(
        None, "also upload the files to this repository of the Hugging Face Hub", REPOSITORY, example="user/name"
    )
    trust: list[str] = key([], "modules of your own that the run needs", example="[my_module]")

    @property
    def folder(self) -> Path:
        """Where the files go, as the user may name it."""
        return self.to or self.run / "export"


def requested(given: Sequence[str]) -> Request:
    """Read a command line.

    Raises ConfigError with all of its faults, CheckpointError if there is no latest run.
    """
    values, others, wrong = read(Request, [word.lstrip("+") for word in given])
    for word in others:
        name, equals, _ = word.partition("=")
        if not equals or word.startswith("-"):
            wrong.append(f"{word}: is not key=value. Run python -m seqrl.export --help for the keys.")
        else:
            known = list(keys_of(Request))
            wrong.append(f"{name}: there is no such key.{nearest(name, known)} Keys: {', '.join(known)}.")
    if not wrong and "run" not in values:
        wrong.append(f"run: is missing. Name {FOLDER}.")
    if wrong:
        raise ConfigError(wrong)
    return Request(**{**values, "run": named_run(values["run"])})
