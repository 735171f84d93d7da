"""Errors that end a run with one line, and their exit codes."""

import sys
import traceback
from pathlib import Path
from typing import Any

from seqrl.text import masked

PACKAGE = Path(__file__).resolve().parent
# Where nothing of the user's own lies.
LIBRARIES = [PACKAGE, Path(sys.prefix), Path(sys.base_prefix)]
# Characters of what an exception says that are read, that a log gets, and that a line gets. What lies between is for
# masks, which must see the whole of a secret before it is cut.
MOST_READ, MOST_OF_LOG, MOST_OF_LINE = 200_000, 20_000, 2_000
# Exceptions of a chain.
MOST_LINKS = 20


class SeqrlError(Exception):
    """Ends a run with one line and no traceback: `where: what is wrong (got X). remedy`.

    What it says is masked: whoever catches it in a program of their own, or does not, may print it.
    """

    exit_code = 1

    def __init__(self, *said: Any) -> None:
        super().__init__(*(masked(it) if isinstance(it, str) else it for it in said))

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel whole from a process of a pool to whoever waits for it, however it was made."""
        cause = self.__cause__ if isinstance(self.__cause__, RaisedError) else None
        return _again, (type(self), self.args, self.__dict__, cause)


def _again(
    kind: type[SeqrlError], said: tuple[Any, ...], facts: dict[str, Any], cause: Exception | None = None
) -> SeqrlError:
    """An error as it was in another process, with what others' code raised."""
    error = kind.__new__(kind, *said)
    error.__dict__.update(facts)
    error.__cause__ = cause
    return error


class ConfigError(SeqrlError):
    """The configuration is wrong; every fault that was found, a line each."""

    exit_code = 2

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = [masked(fault) for fault in faults]


class TakenError(ConfigError):
    """Another run is at work in the folder, or has been begun there meanwhile."""


class NotFiniteError(SeqrlError):
    """Loss or gradient stayed NaN or infinite.

    evidence   parameters, gradients and steps that led to it; tensors by name
    """

    exit_code = 4

    def __init__(self, message: str, evidence: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.evidence = evidence or {}


class ActionNotFiniteError(NotFiniteError):
    """The policy's action was NaN or infinite.

    where   environment and step
    """

    def __init__(self, where: str, number: float, evidence: dict[str, Any] | None = None) -> None:
        super().__init__(
            f"policy: its action is {number:g} ({where}). Reduce algorithm.learning_rate, or use "
            "network.normalize_observations=true if observations are very large.",
            evidence,
        )


class UnsavedError(SeqrlError):
    """The run is over, and its result could not be written."""

    exit_code = 2


class CheckpointError(SeqrlError):
    """There is no checkpoint to go on from, or it is of another run."""

    exit_code = 3


class OutOfMemoryError(SeqrlError):
    """The machine has not the memory that the configuration asks for."""

    exit_code = 2


class LostRankError(SeqrlError):
    """Another process of the run has ended, or does not answer; with its own line and exit code if it said any.

    author   the one that told the others of it; None: they could not be told
    """

    def __init__(self, message: str, exit_code: int = 1, author: int | None = None) -> None:
        super().__init__(message)
        self.exit_code, self.author = exit_code, author


class StoppedError(SeqrlError):
    """A signal asked the run to stop; it did so with a checkpoint."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class RaisedError(Exception):
    """What others' code raised, in words that were taken once: its own exception may do anything when asked again.

    words         as `described` has them
    said          all that it says
    trace         its traceback
    is_ordinary   whether it was an Exception
    """

    def __init__(self, words: str, said: str, trace: str, is_ordinary: bool = True) -> None:
        super().__init__(words, said, trace, is_ordinary)
        self.words, self.said, self.trace, self.is_ordinary = words, said, trace, is_ordinary

    def __str__(self) -> str:
        return self.trace


def raised(error: BaseException) -> RaisedError:
    """An exception in plain words. An environment's is asked for them while its time is limited."""
    if isinstance(error, RaisedError):
        return error
    asked = links(error)[:MOST_LINKS]
    said = [masked(message_of(it))[:MOST_OF_LOG] for it in asked]
    traces = [
        f"{''.join(traceback.format_tb(it.__traceback__))}{type(it).__name__}: {text}"
        for it, text in zip(asked, said, strict=True)
    ]
    return RaisedError(_words(error, said[0]), said[0], "\n\n".join(reversed(traces)), isinstance(error, Exception))


def links(error: BaseException | None) -> list[BaseException]:
    """An exception, what it was raised from or meanwhile, and members of groups, each once: a chain may be a ring."""
    found: list[BaseException] = []
    left = [error]
    while left:
        it = left.pop()
        if it is not None and not any(it is other for other in found):
            found.append(it)
            members = it.exceptions if isinstance(it, BaseExceptionGroup) else ()
            left += [*members, it.__context__, it.__cause__]
    return found


def causes(error: BaseException) -> list[BaseException]:
    """An exception, and what it was raised from, each once."""
    found = [error]
    while (cause := found[-1].__cause__) is not None and not any(cause is it for it in found):
        found.append(cause)
    return found


def last_line(error: BaseException) -> str:
    """What an exception says at its end, where torch has its reason; its type, if it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[-1].strip().rstrip(".")


def described(error: BaseException) -> str:
    """An exception in a few words, with the line of the user's own file that it comes from, if it does."""
    return error.words if isinstance(error, RaisedError) else _words(error, masked(message_of(error)))


def _words(error: BaseException, said: str) -> str:
    first = first_line(said)
    text = f"{type(error).__name__}: {first}" if first else type(error).__name__
    return masked(f"{text}{line_of(error)}")


def first_line(said: str) -> str:
    """The first line of what an exception says, without its full stop, or the beginning of a very long one."""
    first = (said.strip().splitlines() or [""])[0].rstrip(".")
    return first if len(first) <= MOST_OF_LINE else f"{first[:MOST_OF_LINE]}…"


def message_of(error: BaseException) -> str:
    """What an exception says, or the beginning of very much; others' may fail even there, or end the program."""
    try:
        return str.__getitem__(str(error), slice(MOST_READ))
    except BaseException:
        return "it cannot say what is wrong"


def line_of(error: BaseException) -> str:
    """The line of the user's own file that an exception comes from, as ` (file.py:12)`; "" if it comes from none."""
    # Gymnasium raises an error of a constructor again, from the original.
    return _own_line(error, *([] if error.__cause__ is None else [error.__cause__]))


def _own_line(*errors: BaseException) -> str:
    frames = [frame for error in errors for frame in traceback.extract_tb(error.__traceback__)]
    files = [(Path(frame.filename), frame.lineno) for frame in frames]
    # Before seqrl stands whoever called it.
    called = next((n for n, (file, _) in enumerate(files) if file.is_relative_to(PACKAGE)), len(files))
    own = [f" ({file.name}:{line})" for file, line in files[called:] if _is_own(file)]
    return own[-1] if own else ""


def _is_own(file: Path) -> bool:
    return file.is_file() and not any(file.is_relative_to(library) for library in LIBRARIES)


class EnvError(SeqrlError):
    """The environment that was asked for cannot be played; one line: configuration key, what was given, remedy."""

    exit_code = 2


class MissingPackageError(EnvError):
    """The environment that was asked for needs a package that is not there."""


class FaultyEnvError(SeqrlError):
    """An environment did something wrong while it was played; one line: which, when, what."""

    exit_code = 5


class UnrestoredEnvError(FaultyEnvError):
    """An environment could not take the state that it had saved."""


class OutsideEnvError(FaultyEnvError):
    """An environment showed what its observation space does not have."""


def names_environment(error: BaseException) -> bool:
    """Whether an error says all of an environment: one that a file of the user's own raised or met does not name it."""
    return isinstance(error, EnvError | FaultyEnvError) and not _own_line(error)
