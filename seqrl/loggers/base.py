"""What a logger is, and what it may know of the run."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

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


class Logger(ABC):
    """Where rows of scalars go. Built with the run folder, and the environment steps after which the run goes on."""

    def begin(self, about: About) -> str | None:
        """Prepare for the first row; return a line for the user, if there is one to say."""
        return None

    @abstractmethod
    def write(self, row: Row, env_steps: int) -> None:
        """Take in the scalars, by name, that hold after `env_steps` environment steps."""

    def sync(self) -> None:  # noqa: B027
        """Wait until all that was written is on the disk; called before every checkpoint."""

    def end(self, status: str) -> None:  # noqa: B027  # most have nothing to say
        """Called before `close`, with how the run ended: finished, interrupted or failed."""

    def close(self) -> None:  # noqa: B027
        """Flush and release."""


class Adopted(Logger):
    """A logger that has the methods of a Logger without being one."""

    def __init__(self, logger: Any) -> None:
        self.logger = logger
        vars(self).update(
            {name: getattr(logger, name) for name in ("begin", "sync", "end", "close") if hasattr(logger, name)}
        )

    def write(self, row: Row, env_steps: int) -> None:
        self.logger.write(row, env_steps)


def adopted(logger: Any) -> Logger:
    """The logger as a Logger, whose optional methods it need not have."""
    return logger if isinstance(logger, Logger) else Adopted(logger)
