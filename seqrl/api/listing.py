"""`seqrl.runs`: the runs in a folder, the newest first."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from seqrl.config.begun import OUTPUTS, loaded, run_folders, started
from seqrl.config.naming import task_name
from seqrl.run.manifest import standing


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
            env = OmegaConf.to_container(self.config.env)
            return task_name({str(key): value for key, value in env.items()}) if isinstance(env, dict) else ""
        except (OSError, ValueError, AttributeError):
            return ""


def runs(folder: str | PathLike[str] = OUTPUTS) -> list[RunInfo]:
    """All runs in a folder, at any depth, the newest first; folders whose manifest cannot be read are left out."""
    return sorted(_found(Path(folder)), key=lambda run: (run.started, run.name), reverse=True)


def _found(folder: Path) -> Iterator[RunInfo]:
    for path in run_folders(folder):
        with suppress(OSError, ValueError):
            yield RunInfo(path, standing(path), started(path))
