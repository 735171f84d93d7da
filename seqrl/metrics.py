"""What a run tells: scalars for TensorBoard and metrics.jsonl, a live line, and the episodes that ended."""

import json
import math
import sys
import time
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from seqrl.types import Rollout

Row = dict[str, float]


class Logger(Protocol):
    """Where rows of scalars go. Built with the run folder."""

    def write(self, row: Row, env_steps: int) -> None:
        """Take in the scalars, by name, that hold after `env_steps` environment steps."""
        ...

    def close(self) -> None:
        """Flush and release."""
        ...


class TensorBoard:
    """Scalars in an event file: `tensorboard --logdir outputs`."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow to import, and not everyone wants it

        self._writer = SummaryWriter(str(folder))

    def write(self, row: Row, env_steps: int) -> None:
        for name, value in row.items():
            self._writer.add_scalar(name, value, env_steps)

    def close(self) -> None:
        self._writer.close()


class Jsonl:
    """The same scalars in metrics.jsonl, one JSON object a line; what is not finite is null."""

    def __init__(self, folder: Path) -> None:
        self._file = (folder / "metrics.jsonl").open("a", buffering=1)

    def write(self, row: Row, env_steps: int) -> None:
        finite = {name: value if math.isfinite(value) else None for name, value in row.items()}
        self._file.write(json.dumps({"env_steps": env_steps, **finite}) + "\n")

    def close(self) -> None:
        self._file.close()


class EpisodeStatistics:
    """Return and length of the episodes that ended, across rollouts.

    recent   deque of (return, length) of the last 100 episodes
    ended    episodes that ended so far
    """

    def __init__(self, batch_size: int) -> None:
        self.recent: deque[tuple[float, int]] = deque(maxlen=100)
        self.ended = 0
        self._batch_size = batch_size
        self._open: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(self, rollout: Rollout) -> list[tuple[float, int]]:
        """Take in a rollout; return (return, length) of the episodes that ended in it, in the order of their ends."""
        reward = rollout.reward.where(rollout.valid, 0).double()
        length = rollout.valid.long()
        ended = rollout.ended & rollout.valid
        # An episode's sum is the running sum at its end minus that at the end before.
        sums = [reward.cumsum(0), length.cumsum(0)]
        if self._open is not None:
            sums = [s + carried for s, carried in zip(sums, self._open, strict=True)]
        step, env = ended.nonzero(as_tuple=True)
        finished: list[tuple[float, int]] = []
        base = [torch.zeros_like(s[0]) for s in sums]
        for t, b in zip(step.tolist(), env.tolist(), strict=True):
            finished.append((float(sums[0][t, b] - base[0][b]), int(sums[1][t, b] - base[1][b])))
            base[0][b], base[1][b] = sums[0][t, b], sums[1][t, b]
        self._open = (sums[0][-1] - base[0], sums[1][-1] - base[1])
        self.recent.extend(finished)
        self.ended += len(finished)
        return finished

    def row(self) -> Row:
        """Scalars over the last 100 episodes."""
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


class Clock:
    """Wall time of a run, and its share in each of its parts."""

    def __init__(self) -> None:
        self.began = self._lap = time.perf_counter()
        self._spent: dict[str, float] = {}

    def lap(self, part: str) -> None:
        """Count the time since the last call to `part`."""
        now = time.perf_counter()
        self._spent[part] = self._spent.get(part, 0.0) + now - self._lap
        self._lap = now

    @property
    def elapsed(self) -> float:
        """Seconds since the run began."""
        return time.perf_counter() - self.began

    def row(self, env_steps: int) -> Row:
        total = sum(self._spent.values())
        shares = {f"time/{part}_share": seconds / total for part, seconds in self._spent.items()}
        return {"time/elapsed_seconds": self.elapsed, "time/steps_per_second": env_steps / total, **shares}


class Display:
    """Live line in the terminal: how far, return, steps per second, time left. Elsewhere a plain line per tenth."""

    def __init__(self) -> None:
        self.console = Console(highlight=False)
        columns = (BarColumn(), TaskProgressColumn(), TextColumn("{task.description}"))
        self._live = Progress(*columns, console=self.console) if self.console.is_terminal else None
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

    def show(self, progress: float, row: Row, elapsed: float) -> None:
        """Show that the share `progress` of the run is over after `elapsed` seconds."""
        progress = min(progress, 1.0)
        left = elapsed * (1 - progress) / progress if progress else math.inf
        text = (
            f"return {row.get('rollout/return_mean', math.nan):.1f} · {row['time/steps_per_second']:,.0f} steps/s · "
            f"{duration(left)} left"
        )
        if self._live and self._task is not None:
            self._live.update(self._task, completed=progress, description=text)
        elif int(10 * progress) > self._tenths:
            self._tenths = int(10 * progress)
            self.console.print(f"{progress:4.0%}  {text}")
            sys.stdout.flush()


def duration(seconds: float) -> str:
    """Seconds as a person says them: 4 s, 2 min 05 s, 3 h 20 min."""
    if not math.isfinite(seconds):
        return "?"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"
