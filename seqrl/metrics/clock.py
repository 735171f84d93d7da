"""Wall time, and where it goes."""

from collections import defaultdict
from math import isfinite
from typing import Any

from seqrl.loggers import Row
from seqrl.machine import perf_counter, process_time


class Clock:
    """Wall time of a run, and the share spent in each of its parts."""

    def __init__(self) -> None:
        self.start()
        self._spent: dict[str, float] = defaultdict(float)
        self._busy = 0.0

    def start(self) -> None:
        """Start counting; earlier time is not part of the run."""
        self._lap, self._busy_before = perf_counter(), process_time()

    def lap(self, part: str, **of_which: float) -> None:
        """Add the time since the last call to `part`, except for the seconds that `of_which` gives to other parts."""
        now, busy = perf_counter(), process_time()
        self._spent[part] += now - self._lap - sum(of_which.values())
        for other, seconds in of_which.items():
            self._spent[other] += seconds
        self._busy += busy - self._busy_before
        self._lap, self._busy_before = now, busy

    @property
    def elapsed(self) -> float:
        """Seconds counted so far."""
        return sum(self._spent.values())

    @property
    def shares(self) -> dict[str, float]:
        """Share of each part in the time counted so far."""
        return {part: self.per_second(seconds) for part, seconds in self._spent.items()}

    @property
    def idle(self) -> float:
        """Share of the time in which this process computed nothing, but waited for other processes or for a core."""
        return max(0.0, 1 - self.per_second(self._busy))

    def per_second(self, number: float) -> float:
        """Of what was done in the time counted so far; 0 if a coarse clock has not moved yet."""
        return number / self.elapsed if self.elapsed else 0.0

    def row(self, env_steps: int) -> Row:
        shares = {f"time/{part}_share": share for part, share in self.shares.items()}
        return {
            "time/elapsed_seconds": self.elapsed,
            "time/steps_per_second": self.per_second(env_steps),
            **shares,
            "time/idle_share": self.idle,
        }

    def state_dict(self) -> dict[str, Any]:
        return {"spent": dict(self._spent), "busy": self._busy}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        # A file may say anything.
        seconds = {**{str(part): float(it) for part, it in state["spent"].items()}, "busy": float(state["busy"])}
        if odd := [part for part, it in seconds.items() if not isfinite(it)]:
            raise ValueError(f"its clock says {seconds[odd[0]]} for {odd[0]}")
        self._busy = seconds.pop("busy")
        self._spent.update(seconds)
