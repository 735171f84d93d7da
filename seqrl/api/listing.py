"""`seqrl.runs`: the runs in a folder, the newest first."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from seqrl.config.begun import OUTPUTS, leaving_out, loaded, run_folders, started
from seqrl.config.naming import task_of
from seqrl.errors import ConfigError
from seqrl.files import fault
from seqrl.run.manifest import standing

if TYPE_CHECKING:
    from seqrl.api.playing import Policy


@dataclass(frozen=True)
class RunInfo:
    """A run in its folder, as its manifest has it.

    folder    of the run
    facts     of manifest.json
    status    running, finished, interrupted, failed, killed or pruned; unknown if its manifest does not say
    started   seconds since 1970
    """

    folder: Path
    facts: dict[str, Any] = field(repr=False)
    started: float

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def status(self) -> str:
        return str(self.facts.get("status", "unknown"))

    @property
    def score(self) -> float | None:
        """Mean return of its final evaluation; None before that."""
        result = self.facts.get("result")
        return None if result is None else float(result)

    @property
    def env_steps(self) -> int | None:
        return self.facts.get("env_steps")

    @cached_property
    def config(self) -> DictConfig:
        """Its configuration. Raises OSError or ValueError if it has none that can be read."""
        return loaded(self.folder / "config.yaml")

    @property
    def task(self) -> str:
        """What it plays, in short; "" if its configuration does not say."""
        try:
            return task_of(self.config)
        except (OSError, ValueError):
            return ""

    def policy(self, checkpoint: str | int = "last", *, device: str = "cpu", trust: Sequence[str] = ()) -> "Policy":
        """Its policy, as `seqrl.load` has it."""
        # torch takes a second to import.
        from seqrl.api.playing import load

        return load(self.folder, checkpoint=checkpoint, device=device, trust=trust)


def runs(folder: str | PathLike[str] = OUTPUTS) -> list[RunInfo]:
    """All runs in a folder, at any depth, the newest first; folders whose manifest cannot be read are left out.

    Raises ConfigError if there is no such folder; none need be there where nobody names one.
    """
    if folder is not OUTPUTS or os.path.lexists(folder):
        insist_on_folders([Path(folder)])
    return listed([Path(folder)])


def listed(folders: Sequence[Path], say: Callable[[str], object] = lambda line: None) -> list[RunInfo]:
    """The same of several folders.

    say   is told, a line each, what cannot be read and is left out
    """
    return sorted(_found(folders, say), key=lambda run: (run.started, run.name), reverse=True)


def insist_on_folders(named: Sequence[Path]) -> None:
    """Raise ConfigError unless all of them are folders."""
    if wrong := [it for it in named if not it.is_dir()]:
        raise ConfigError([f"runs: {it} is not a folder. Name one that holds runs." for it in wrong])


def _found(folders: Sequence[Path], say: Callable[[str], object]) -> Iterator[RunInfo]:
    for path in (path for folder in folders for path in run_folders(folder, leaving_out(say))):
        try:
            facts = standing(path)
            yield RunInfo(path, facts, started(path, facts))
        except FileNotFoundError:
            # Removed meanwhile.
            continue
        except (OSError, ValueError) as error:
            say(f"{path / 'manifest.json'}: {fault(error)}. This run is left out.")
