"""What can go wrong, said for the person at the keyboard: one line each, and the exit code."""

from typing import Any


class SeqrlError(Exception):
    """Ends a run with one line and no traceback: `where: what is wrong (got X). remedy`."""

    exit_code = 1


class ConfigError(SeqrlError):
    """The configuration is wrong; every fault that was found, a line each."""

    exit_code = 2

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


class NotFiniteError(SeqrlError):
    """Loss or gradient stayed NaN or infinite.

    evidence   parameters, gradients and steps that led to it; tensors by name
    """

    exit_code = 4

    def __init__(self, message: str, evidence: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.evidence = evidence or {}


class UnsavedError(SeqrlError):
    """The run is over, and its result could not be written."""

    exit_code = 2


class CheckpointError(SeqrlError):
    """There is no checkpoint to go on from, or it is of another run."""

    exit_code = 3


class OutOfMemoryError(SeqrlError):
    """The machine has not the memory that the configuration asks for."""

    exit_code = 2


class StoppedError(SeqrlError):
    """A signal asked the run to stop; it did so with a checkpoint."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code
