"""The live line in the terminal."""

import logging
import math
import os
import sys
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.text import Text

from seqrl.loggers import Row
from seqrl.text import duration, figure, printable

log = logging.getLogger(__name__)

# What a stream raises that cannot be written, or has not the characters; ValueError: an environment may have closed it.
UNSHOWN = (OSError, ValueError)


class QuietConsole(Console):
    """A console that never ends a run, and reads nothing in a text as markup.

    It falls silent where its reader is gone, as in `... | head`, its disk is full, or an environment has closed its
    stream.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, quiet=quiet)

    def print(self, *objects: Any, **more: Any) -> None:
        with suppress(*UNSHOWN):
            super().print(*objects, **more)

    def __exit__(self, *error: Any) -> None:
        # The live line writes here.
        with suppress(*UNSHOWN):
            super().__exit__(*error)

    def on_broken_pipe(self) -> None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Display:
    """Live line in the terminal: progress, return, steps per second, time left. Elsewhere, a plain line every tenth.

    name    of a run with others running beside it: it then prints only how it ended, with its name
    quiet   print nothing at all
    """

    def __init__(self, name: str = "", *, quiet: bool = False) -> None:
        self.name = name
        self.console = QuietConsole(quiet=quiet)
        columns = (BarColumn(), TaskProgressColumn(), TextColumn("{task.description}", markup=False))
        is_live = self.console.is_terminal and not (name or quiet)
        self._live = Progress(*columns, console=self.console) if is_live else None
        self._task = self._live.add_task("starting", total=1.0) if self._live else None
        self._tenths = 0

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._live:
            with suppress(*UNSHOWN):
                self._live.stop()

    def say(self, text: str) -> None:
        """Print a line above the live one, and write it to the run's log."""
        text = printable(text)
        if not self.name:
            self.console.print(text, soft_wrap=True)
        with suppress(OSError):
            log.info(text)

    def end(self, summary: str, score: float, seconds: float) -> None:
        """Print how the run ended."""
        text = Text(printable(f"{self.name}: {figure(score)} in {duration(seconds)}" if self.name else summary))
        text.highlight_regex(r"(?<=mean return   )\S+", "bold")
        self.console.print(text, soft_wrap=True)

    def evaluating(self, share: float) -> None:
        """Show that the share of the final evaluation is done."""
        if self._live and self._task is not None:
            self._live.update(self._task, completed=share, description="evaluating the final policy")

    def show(self, progress: float, row: Row) -> None:
        """Show that the share `progress` of the run is done."""
        progress = min(progress, 1.0)
        left = row["time/elapsed_seconds"] * (1 - progress) / progress if progress else math.inf
        mean = figure(row.get("rollout/return_mean", math.nan))
        if "evaluation/return_mean" in row:
            mean += f" · evaluated {figure(row['evaluation/return_mean'])}"
        text = f"return {mean} · {row['time/steps_per_second']:,.0f} steps/s · {duration(left)} left"
        if self._live and self._task is not None:
            self._live.update(self._task, completed=progress, description=text)
        elif int(10 * progress) > self._tenths and not self.name:
            self._tenths = int(10 * progress)
            self.console.print(f"{progress:4.0%}  {text}")


class Bar:
    """A bar in the terminal for work of several parts. Elsewhere nothing: what it does is done soon."""

    def __init__(self) -> None:
        console = QuietConsole()
        columns = (BarColumn(), TaskProgressColumn(), TextColumn("{task.description}", markup=False))
        self._live = Progress(*columns, console=console, transient=True) if console.is_terminal else None
        self._task = self._live.add_task("starting", total=1.0) if self._live else None

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._live:
            with suppress(*UNSHOWN):
                self._live.stop()

    def show(self, progress: float, what: str = "playing") -> None:
        """Show that the share `progress` is done, and what comes next."""
        if self._live and self._task is not None:
            self._live.update(self._task, completed=progress, description=printable(what))
