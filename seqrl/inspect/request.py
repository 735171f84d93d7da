"""What a command line of seqrl.inspect asks for."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seqrl.config.schema import AT_LEAST_1, Rule, key
from seqrl.config.words import FOLDER, OfPlayedPolicy, read_for_policy, value_of
from seqrl.errors import ConfigError


@dataclass(frozen=True)
class Words(OfPlayedPolicy):
    """Keys of the command line; None means the run's own value."""

    run: Path = key(
        None,
        "folder of the run; latest: the newest; run=[a,b]: several, beside each other on one page",
        Rule(bool, FOLDER),
        example="<folder>",
    )
    episodes: int = key(64, "episodes of every measurement; more make it slower and its intervals narrower", AT_LEAST_1)
    video: bool = key(True, "false: no film of the policy on the page")


@dataclass(frozen=True)
class Request(Words):
    """What a command line asks for.

    runs   folders
    env    changes to the environment, by dotted key
    """

    runs: list[Path] = field(default_factory=list)
    env: dict[str, Any] = field(default_factory=dict)


def requested(given: Sequence[str]) -> Request:
    """Read a command line.

    Raises ConfigError with all of its faults.
    """
    words = [word.lstrip("+").removeprefix("evaluation.") for word in given]
    values, env = read_for_policy(Words, words, "seqrl.inspect")
    return Request(**values, runs=_folders(values["run"]), env=env)


def _folders(run: Path) -> list[Path]:
    """One folder, or those of a list; a folder may be called like one."""
    text = str(run)
    if not text.startswith("[") or run.exists():
        return [run]
    found = value_of(f"run={text}")
    if not isinstance(found, list) or not found or not all(isinstance(it, str) and it for it in found):
        raise ConfigError([f"run: must be {FOLDER}, or a list of such folders, [a,b] (got {text})."])
    folders = list(map(Path, found))
    if twice := [it for it in folders if folders.count(it) > 1]:
        raise ConfigError([f"run: {twice[0]} is listed twice. List each folder once."])
    return folders
