"""What a run tells: scalars for its loggers, a live line, and the episodes that ended."""

import logging
import math
import os
import sys
import time
from collections import defaultdict, deque
from types import TracebackType
from typing import Any, Self

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

# Configurations of earlier runs, and loggers of users, know these by their names here.
from seqrl.loggers import Jsonl as Jsonl
from seqrl.loggers import Logger as Logger
from seqrl.loggers import Row as Row
from seqrl.loggers import TensorBoard as TensorBoard
from seqrl.types import Rollout

log = logging.getLogger(__name__)


class EpisodeStatistics:
    """Return and length of the episodes that ended, across rollouts.

    recent   deque of (return, length) of the last 100 episodes, or of one an environment where there are more: the last
             100 of 1000 episodes played at once would be the longest
    ended    episodes that ended so far
    """

    def __init__(self, batch_size: int) -> None:
        self.recent: deque[tuple[float, int]] = deque(maxlen=max(100, batch_size))
        self.ended = 0
        self._batch_size = batch_size
        self._open: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(self, rollout: Rollout) -> list[tuple[float, int]]:
        """Take in a rollout; return (return, length) of the episodes that ended in it, in the order of their ends."""
        reward = rollout.reward.where(rollout.valid, 0).cpu().double()
        length = rollout.valid.cpu().long()
        ended = (rollout.ended & rollout.valid).cpu()
        # An episode's sum is the running sum at its end minus that at the end before.
        sums = [reward.cumsum(0), length.cumsum(0)]
        if self._open is not None:
            sums = [s + carried for s, carried in zip(sums, self._open, strict=True)]
        step, env = ended.nonzero(as_tuple=True)
        finished: list[tuple[float, int]] = []
        base = [torch.zeros_like(s[0]).tolist() for s in sums]
        for b, *at_end in zip(env.tolist(), *(s[step, env].tolist() for s in sums), strict=True):
            finished.append((at_end[0] - base[0][b], at_end[1] - base[1][b]))
            base[0][b], base[1][b] = at_end
        self._open = (sums[0][-1] - torch.tensor(base[0], dtype=torch.float64), sums[1][-1] - torch.tensor(base[1]))
        self.recent.extend(finished)
        self.ended += len(finished)
        return finished

    def row(self) -> Row:
        """Scalars over the recent episodes."""
        if not self.recent:
            return {}
        returns = torch.tensor([r for r, _ in self.recent], dtype=torch.float64)
        lengths = torch.tensor([length for _, length in self.recent], dtype=torch.float64)
        return {
            "rollout/return_mean": float(returns.mean()),
            "rollout/return_min": float(returns.min()),
            "rollout/return_max": float(returns.max()),
            "rollout/length_mean": float(lengths.mean()),
            "rollout/episodes": self.ended,
        }

    def state_dict(self) -> dict[str, Any]:
        return {"recent": list(self.recent), "ended": self.ended, "open": self._open}

    def load_state_dict(self, state: dict[str, Any], lost: torch.Tensor) -> None:
        """Go on counting, but forget the episodes in progress where `lost` [B] is true."""
        self.recent.extend(state["recent"])
        self.ended = state["ended"]
        if state["open"] is not None and not lost.all():
            self._open = tuple(s.masked_fill(lost.cpu(), 0) for s in state["open"])


class Clock:
    """Wall time of a run, and its share in each of its parts."""

    def __init__(self) -> None:
        self.start()
        self._spent: dict[str, float] = defaultdict(float)
        self._busy = 0.0

    def start(self) -> None:
        """Begin to count; what came before is no part of the run."""
        self._lap, self._busy_before = time.perf_counter(), time.process_time()

    def lap(self, part: str, **of_which: float) -> None:
        """Count the time since the last call to `part`, but for the seconds of other parts that are named."""
        now, busy = time.perf_counter(), time.process_time()
        self._spent[part] += now - self._lap - sum(of_which.values())
        for other, seconds in of_which.items():
            self._spent[other] += seconds
        self._busy += busy - self._busy_before
        self._lap, self._busy_before = now, busy

    @property
    def elapsed(self) -> float:
        """Seconds that were counted."""
        return sum(self._spent.values())

    @property
    def shares(self) -> dict[str, float]:
        """Share of each part in the time that was counted."""
        return {part: seconds / self.elapsed for part, seconds in self._spent.items()}

    @property
    def idle(self) -> float:
        """Share of the time in which this process computed nothing: it waited for other processes, or for its turn."""
        return max(0.0, 1 - self._busy / self.elapsed)

    def row(self, env_steps: int) -> Row:
        shares = {f"time/{part}_share": share for part, share in self.shares.items()}
        return {
            "time/elapsed_seconds": self.elapsed,
            "time/steps_per_second": env_steps / self.elapsed,
            **shares,
            "time/idle_share": self.idle,
        }

    def state_dict(self) -> dict[str, Any]:
        return {"spent": dict(self._spent), "busy": self._busy}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._spent.update(state["spent"])
        self._busy = state["busy"]


class QuietConsole(Console):
    """Goes on in silence where nobody reads any more, as in `... | head`: a display must not end a run."""

    def on_broken_pipe(self) -> None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Display:
    """Live line in the terminal: how far, return, steps per second, time left. Elsewhere a plain line per tenth.

    name   of a run that others go on beside; it then says little, and its name with each line
    """

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.console = QuietConsole(highlight=False)
        columns = (BarColumn(), TaskProgressColumn(), TextColumn("{task.description}"))
        self._live = Progress(*columns, console=self.console) if self.console.is_terminal and not name else None
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
            self._live.stop()

    def say(self, text: str) -> None:
        """Print a line, above the live one; it goes to the run's log too."""
        if not self.name:
            self.console.print(text, soft_wrap=True)
        log.info(text)

    def end(self, summary: str, score: float, seconds: float) -> None:
        """Print how the run ended."""
        text = f"{self.name}: {figure(score)} in {duration(seconds)}" if self.name else summary
        self.console.print(text, soft_wrap=True)

    def show(self, progress: float, row: Row) -> None:
        """Show that the share `progress` of the run is over."""
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


def duration(seconds: float) -> str:
    """Seconds as a person says them: 4 s, 2 min 05 s, 3 h 20 min."""
    if not math.isfinite(seconds):
        return "?"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"


def figure(number: float) -> str:
    """A return with as many digits as tell something: 481.3, 0.97."""
    return f"{number:.1f}" if abs(number) >= 10 else f"{number:.2f}"
