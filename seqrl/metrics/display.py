"""The live line in the terminal."""

import logging
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.text import Text

from seqrl.loggers import Row
from seqrl.text import UNSAID, duration, figure, printable

log = logging.getLogger(__name__)

# What a stream raises that cannot be written, or has not the characters; ValueError: an environment may have closed it.
UNSHOWN = (OSError, ValueError)
UNKNOWN_WIDTH = 80


class QuietConsole(Console):
    """A console that never ends a run, and reads nothing in a text as markup.

    It falls silent where its reader is gone, as in `... | head`, its disk is full, or an environment has closed its
    stream.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, quiet=quiet)
        if not self.width:
            # As COLUMNS=0 has it, or a terminal that does not know; Rich would print nothing.
            self.width = UNKNOWN_WIDTH

    def print(self, *objects: Any, **more: Any) -> None:
        with unshown_noted():
            super().print(*objects, **more)

    def __exit__(self, *error: Any) -> None:
        # The live line writes here, and what is printed.
        with unshown_noted():
            super().__exit__(*error)

    def on_broken_pipe(self) -> None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def unshown_noted() -> Iterator[None]:
    """Go on where a stream cannot be written, and remember why."""
    try:
        yield
    except UNSHOWN as error:
        if isinstance(error, OSError):
            UNSAID.append(error)


class Bar:
    """A bar in the terminal, which goes away in the end. Elsewhere nothing: `is_live` says so.

    console      that it is on
    is_wanted    whether to show it at all
    """

    def __init__(self, console: QuietConsole | None = None, *, is_wanted: bool = True) -> None:
        console = console or QuietConsole()
        columns = (BarColumn(), TaskProgressColumn(), TextColumn("{task.description}", markup=False))
        self.is_live = console.is_terminal and is_wanted
        self._progress = Progress(*columns, console=console, transient=True)
        self._task = self._progress.add_task("starting", total=1.0)

    def __enter__(self) -> Self:
        if self.is_live:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.is_live:
            with suppress(*UNSHOWN):
                self._progress.stop()

    def show(self, share: float, what: str = "playing") -> None:
        """Show that a share is done, and what comes next."""
        if self.is_live:
            self._progress.update(self._task, completed=share, description=printable(what))


class Display:
    """Live line in the terminal: progress, return, steps per second, time left. Elsewhere, a plain line every tenth.

    name    of a run with others running beside it: it then prints only how it ended, with its name
    quiet   print nothing at all
    """

    def __init__(self, name: str = "", *, quiet: bool = False) -> None:
        self.name = name
        self.console = QuietConsole(quiet=quiet)
        self._bar = Bar(self.console, is_wanted=not (name or quiet))
        self._tenths = 0

    def __enter__(self) -> Self:
        self._bar.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.__exit__(kind, error, traceback)

    def say(self, text: str) -> None:
        """Print a line above the live one, and write it to the run's log."""
        text = printable(text)
        if not self.name:
            self.console.print(text, soft_wrap=True)
        with suppress(OSError):
            log.info(text)

    def end(self, summary: str, score: float, seconds: float) -> None:
        """Print how the run ended, and write it to the run's log."""
        with suppress(OSError):
            log.info(printable(summary))
        text = Text(printable(f"{self.name}: {figure(score)} in {duration(seconds)}" if self.name else summary))
        text.highlight_regex(r"(?<=mean return   )\S+", "bold")
        self.console.print(text, soft_wrap=True)

    def evaluating(self, share: float) -> None:
        """Show that the share of the final evaluation is done."""
        self._bar.show(share, "evaluating the final policy")

    def show(self, progress: float, row: Row) -> None:
        """Show that the share `progress` of the run is done."""
        progress = min(progress, 1.0)
        left = row["time/elapsed_seconds"] * (1 - progress) / progress if progress else math.inf
        mean = figure(row.get("rollout/return_mean", math.nan))
        if "evaluation/return_mean" in row:
            mean += f" · evaluated {figure(row['evaluation/return_mean'])}"
        text = f"return {mean} · {row['time/steps_per_second']:,.0f} steps/s · {duration(left)} left"
        self._bar.show(progress, text)
        if self._bar.is_live:
            return
        if int(10 * progress) > self._tenths and not self.name:
            self._tenths = int(10 * progress)
            self.console.print(f"{progress:4.0%}  {text}")
