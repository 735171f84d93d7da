"""What a logger is, and what it may know of the run."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

Row = dict[str, float]


@dataclass(frozen=True)
class About:
    """What a run is called and made of.

    name        of its folder; a point of a sweep carries there what is swept
    group       name of the sweep that it is a point of
    config      resolved, in sections; variables of the system's environment keep their names
    overrides   of the command line
    """

    name: str
    group: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    overrides: list[str] = field(default_factory=list)


class Logger(Protocol):
    """Where rows of scalars go. Built with the run folder, and the environment steps after which the run goes on.

    Two methods more are called if they are there:

        begin(about: About) -> str | None    before the first row; returns a line for the user, if there is one to say
        end(status: str) -> None             before `close`: finished, interrupted or failed
    """

    def write(self, row: Row, env_steps: int) -> None:
        """Take in the scalars, by name, that hold after `env_steps` environment steps."""
        ...

    def close(self) -> None:
        """Flush and release."""
        ...


def flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Keys of all sections, dotted, with their values; a list is one value."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
