"""What a check finds, and how a function becomes a check."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from seqrl.errors import described


class Status(StrEnum):
    """How a check ended.

    WARN        the part can be used, and there is something that you should know
    UNCHECKED   there was nothing to look at, so that the check can't say anything
    """

    PASS = "pass"
    FAIL = "FAIL"
    WARN = "warn"
    UNCHECKED = "NOT CHECKED"


@dataclass(frozen=True)
class Finding:
    """Result of a check.

    figure   what was measured, and what is allowed; or why nothing was
    remedy   what to do, unless it passed
    """

    name: str
    status: Status
    figure: str
    remedy: str = ""

    @property
    def is_good(self) -> bool:
        """Whether the part may be used as far as this check can say."""
        return self.status in (Status.PASS, Status.WARN)


@dataclass(frozen=True)
class Measured:
    """What a check measured. Without a remedy of its own, the check's remedy applies."""

    status: Status
    figure: str
    remedy: str = ""


class UncheckedError(Exception):
    """A check had nothing to look at: why, and what to do about it."""

    def __init__(self, why: str, remedy: str = "") -> None:
        super().__init__(why)
        self.why, self.remedy = why, remedy


@dataclass(frozen=True)
class Check:
    """A check: calling it with its subject gives what it finds, or None if it does not apply.

    name      what holds if it passes
    remedy    what to do if it fails
    measure   compares; raises UncheckedError if there is nothing to compare
    """

    name: str
    remedy: str
    measure: Callable[[Any], Measured | None]

    def __call__(self, subject: Any) -> Finding | None:
        try:
            measured = self.measure(subject)
        except UncheckedError as error:
            return Finding(self.name, Status.UNCHECKED, error.why, error.remedy or self.remedy)
        except Exception as error:
            return Finding(self.name, Status.FAIL, f"raised {described(error)}", self.remedy)
        except SystemExit:
            return Finding(self.name, Status.FAIL, "it ended the program (SystemExit)", self.remedy)
        if measured is None:
            return None
        return Finding(self.name, measured.status, measured.figure, measured.remedy or self.remedy)


def check(name: str, remedy: str) -> Callable[[Callable[[Any], Measured | None]], Check]:
    """Make a check of a function that measures."""
    return lambda measure: Check(name, remedy, measure)


Begin = Callable[[str], None]
"""Is told the name of each check as it begins."""


def found(checks: Iterable[Check], subject: Any, begin: Begin = lambda name: None) -> Iterator[Finding]:
    """The findings of all checks that apply."""
    for each in checks:
        begin(each.name)
        if finding := each(subject):
            yield finding


def holds(condition: bool, figure: str) -> Measured:
    return Measured(Status.PASS if condition else Status.FAIL, figure)


def small(figure: float, allowed: float, what: str) -> Measured:
    """Whether a difference is small enough. NaN is not."""
    return holds(figure <= allowed, f"{what} {figure:.1e}, allowed {allowed:.0e}")
